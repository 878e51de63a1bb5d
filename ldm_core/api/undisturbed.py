"""A training within somebody's process, which goes on afterwards as it was before."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ldm_core.errors import TrainingError
from ldm_core.training.engine import world

_one = threading.Lock()


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context for one training at a time: environment variables, generators of random numbers, warning filters and
    torch's process group are afterwards as before. Signals are the run's own to restore."""
    if not _one.acquire(blocking=False):
        raise TrainingError("another training runs in this process; train one after the other, or in another process")
    environ, group = dict(os.environ), torch.distributed.is_initialized()
    states = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(), _device() as devices, torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if not group:
            world.leave()
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
        _one.release()


@contextmanager
def _device() -> Iterator[list[int]]:
    """The GPU that the run is to use, if there is one; the current one is afterwards as before."""
    if not torch.cuda.is_available():
        yield []
        return
    index = world.gpu_of(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count())
    with torch.cuda.device(index):
        yield [index]
