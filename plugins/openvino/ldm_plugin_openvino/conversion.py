"""One network from torch to OpenVINO: traced, converted, compared with torch, and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core.contracts import Network
from ldm_core.contracts.values import Precision
from ldm_core.model.exchange.flat_network import FlatNetwork
from ldm_plugin_openvino.library import core, library

_HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16"}
BOUNDS: Mapping[str, float] = {"fp32": 1e-3, "bf16": 0.1}
"""The largest distance from torch's result, |a - b| / |b| in norms of a whole result, by the arithmetic."""
_ROWS = 2  # of the example that is traced: a single row could pass for a number


def converted(network: Network, arguments: Mapping[str, Tensor], options: Mapping[str, Any], *, fixed: bool) -> Any:
    """The model of OpenVINO for `network`, from arguments by name, with sizes left open, or `fixed` but for the batch.

    :class:`ValueError` if tracing or converting fails, or if its results in float32 are not torch's.
    """
    flat = FlatNetwork(network, [*arguments][2:], options)
    row = [value[:1] for value in arguments.values()]
    example = tuple(value.expand(_ROWS, *value.shape[1:]).contiguous() for value in row)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of branches on sizes, which are compared with torch below
            traced = torch.jit.trace(flat, example, check_trace=False, strict=False)
            made = library().convert_model(traced, example_input=example)
    except Exception as error:  # whatever a tracer or a converter raises of a network
        raise ValueError(f"{type(error).__name__}: {first_line(error)}") from None
    _name_inputs(made, arguments)
    if fixed:
        made.reshape({name: [-1, *value.shape[1:]] for name, value in arguments.items()})
    with torch.no_grad():
        wanted = flat(*row)
    found = run(compiled(made, "fp32").create_infer_request(), dict(zip(arguments, row, strict=True)))
    if (far := distance(found, wanted)) > BOUNDS["fp32"]:
        raise ValueError(f"its results differ from torch's by {far:.2g} (bound {BOUNDS['fp32']:g})")
    return made


def first_line(error: Exception) -> str:
    """The beginning of an error's message."""
    return next(iter(str(error).strip().splitlines()), "")


def _name_inputs(made: Any, names: Sequence[str] | Mapping[str, Tensor]) -> None:
    if len(made.inputs) != len(names):
        raise ValueError(f"it has {len(made.inputs)} inputs of {len(names)}")
    for put, name in zip(made.inputs, names, strict=True):
        put.get_tensor().set_names({name})


def compiled(made: Any | Path, precision: Precision) -> Any:
    """A model, or the file of one, compiled for the CPU with torch's number of threads."""
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    return core().compile_model(made, "CPU", settings)


def run(request: Any, arguments: Mapping[str, Tensor]) -> Tensor:
    """The float32 result for arguments by name, in memory of its own."""
    request.infer({name: value.numpy() for name, value in arguments.items()})
    return torch.from_numpy(np.array(request.get_output_tensor(0).data, dtype=np.float32))


def distance(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, infinite for other shapes; of results that are all zero, |found|."""
    if found.shape != wanted.shape:
        return float("inf")
    size = float(wanted.double().norm())
    return float((found.double() - wanted.double()).norm()) / (size or 1.0)
