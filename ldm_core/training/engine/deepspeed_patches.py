"""All replaced private parts of DeepSpeed and torch: look here first after an upgrade of either."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

_lock = threading.Lock()
_stages: list[object] = []
"""The stages under way, of all threads."""


@contextmanager
def own_linear() -> Iterator[None]:
    """A context of a stage: once no stage is under way any more, ``torch.nn.functional.linear`` is torch's own again.

    ZeRO 3 replaces it, for good: all that the process does later would have other bits, and take a sixth more time.
    """
    stage = object()
    with _lock:
        _stages.append(stage)
    try:
        yield
    finally:
        with _lock:
            _stages.remove(stage)
            zero: Any = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
            if zero and not _stages and torch.nn.functional.linear is zero.zero3_linear_wrap:
                torch.nn.functional.linear = zero.InsertPostInitMethodToModuleSubClasses.linear_bk


def drop_step(engine: Any, zero: int) -> None:
    """Drop the next step of a ZeRO engine; RuntimeError if this version of DeepSpeed does not.

    DeepSpeed drops a step without a finite norm, together with everything kept of its gradients (buckets, partitions,
    copies in host memory). No other way covers every stage and offload. So its norm is infinite for this one step.
    """
    optimizer = engine.optimizer
    infinite = torch.tensor(math.inf, device=engine.device)
    if zero == 3:
        optimizer._get_norm_groups = lambda: [infinite]
    else:
        optimizer.scaled_global_norm = lambda *_, **__: infinite
    try:
        engine.step()
    finally:
        del optimizer.__dict__["_get_norm_groups" if zero == 3 else "scaled_global_norm"]
    if not optimizer.overflow:
        raise RuntimeError("this version of DeepSpeed does not drop a step with an infinite gradient norm")


def forget_groups() -> None:
    """Let DeepSpeed forget its process groups: it would go on using those that were taken down."""
    from deepspeed.comm import comm
    from deepspeed.utils import groups

    comm.cdb = None
    groups.mesh_device = None
    for name, value in vars(groups).items():
        if name.endswith("_GROUP"):
            setattr(groups, name, {} if isinstance(value, dict) else None)


def set_default_timeout(wait: timedelta) -> None:
    """Set the time-out of process groups made without one, as DeepSpeed's engines make them."""
    vars(torch.distributed.distributed_c10d).update(default_pg_timeout=wait, default_pg_nccl_timeout=wait)
