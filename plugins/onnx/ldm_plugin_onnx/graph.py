"""One network as a graph of ONNX, its weights in the file of weights: traced, and compared with torch.

Torch's exporter by tracing takes a tenth of the time of the one by ``torch.export`` (1.5 and 15 seconds of a processor
for three small networks), and might take a size for a constant; so every graph is computed by onnxruntime at a second
size and batch as well.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.errors import ConfigError
from ldm_plugin_onnx.library import packages
from ldm_plugin_onnx.network import Exported
from ldm_plugin_onnx.weights_file import FILE, WeightsFile

OPSET = 18
BOUND = 1e-3
"""The largest distance from torch's result, |a - b| / |b| in norms of a whole result."""
_STORED = ".as_stored"
_KINDS = {
    torch.float32: "FLOAT",
    torch.float16: "FLOAT16",
    torch.bfloat16: "BFLOAT16",
    torch.float64: "DOUBLE",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}


def graph_of(what: str, exported: Exported, weights: WeightsFile, places: Mapping[str, tuple[int, int]]) -> Any:
    """The ONNX model of a network, its weights references to their `places` in the file of `weights`.

    Axes of any length are named; for a network of one size alone, those of space and tokens are numbers. ConfigError
    in one line if torch cannot export it, or for other results than torch's.
    """
    small = exported.arguments
    tried = []
    other = exported.at_another_size()
    calls = [small, *([other] if other is not None else [])]
    for open_axes in (True, False) if other is not None else (False,):
        model = _traced(what, exported, open_axes)
        _refer(model, exported, weights, places)
        given = calls if open_axes else [small]
        far = max(_distance(model, exported, weights, call) for call in [*given, exported.first_row(small)])
        if far <= BOUND:
            return model
        tried.append(f"{far:.2g}")
    raise ConfigError(f"onnx: the results of the {what} differ from torch's by {' and '.join(tried)} (bound {BOUND:g})")


def bytes_of(model: Any) -> bytes:
    """The file of a graph; equal graphs give equal bytes."""
    made: bytes = model.SerializeToString(deterministic=True)
    return made


def fixed_axes(model: Any, exported: Exported) -> list[str]:
    """The open axes of one length alone in the graph, each as ``ARGUMENT.AXIS=LENGTH``."""
    sizes = {put.name: put.type.tensor_type.shape.dim for put in model.graph.input}
    return [
        f"{name}.{axis}={sizes[name][index].dim_value}"
        for name, axes in exported.open_axes.items()
        for index, axis in axes.items()
        if sizes[name][index].HasField("dim_value")
    ]


def _traced(what: str, exported: Exported, open_axes: bool) -> Any:
    onnx, _ = packages()
    named = {name: axes if open_axes else {0: axes[0]} for name, axes in exported.open_axes.items()}
    with torch.no_grad():
        results = _results(exported, exported.arguments)
    for name, value in zip(exported.results, results, strict=True):
        named[name] = {0: "batch"} | ({i: f"{name}_{i}" for i in range(1, value.dim())} if open_axes else {})
    file = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                exported.module,
                tuple(exported.arguments.values()),
                file,  # type: ignore[arg-type]
                dynamo=False,
                export_params=False,
                keep_initializers_as_inputs=True,
                do_constant_folding=False,
                input_names=[*exported.arguments],
                output_names=[*exported.results],
                dynamic_axes=named,
                opset_version=OPSET,
            )
    except Exception as error:  # whatever an exporter raises of a network
        words = next(iter(str(error).strip().splitlines()), "")[:200]
        raise ConfigError(f"onnx: torch cannot export the {what}: {type(error).__name__}: {words}") from None
    model = onnx.load_model_from_string(file.getvalue())
    for put in model.graph.output:  # a size that torch knows
        value = dict(zip(exported.results, results, strict=True))[put.name]
        for axis in put.type.tensor_type.shape.dim:
            if axis.dim_param == f"{put.name}_1":
                axis.dim_value = value.shape[1]
    _strip(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of branches on sizes, which are compared with torch
        yield


def _strip(model: Any) -> None:
    """Take away all names of the code behind the graph."""
    model.producer_name, model.producer_version = "ldm-plugin-onnx", ""
    for node in model.graph.node:
        node.doc_string = ""
    del model.graph.value_info[:]


def _refer(model: Any, exported: Exported, weights: WeightsFile, places: Mapping[str, tuple[int, int]]) -> None:
    """Make references of the weights, given as inputs; one of another type is made a float32 in the graph."""
    onnx, _ = packages()
    graph, own = model.graph, _values(exported.module)
    inputs = [put for put in graph.input if put.name in exported.arguments]
    params = [put.name for put in graph.input if put.name not in exported.arguments]
    casts = []
    for name in params:
        value, key = own[name], exported.key(name)
        tensor = weights.tensors.get(key)
        if tensor is None or tensor.shape != value.shape or tensor.dtype not in _KINDS:  # no weight, but a constant
            graph.initializer.append(onnx.numpy_helper.from_array(value.numpy(), name))
            continue
        made = graph.initializer.add()
        made.data_type = getattr(onnx.TensorProto, _KINDS[tensor.dtype])
        made.name, made.data_location = name, onnx.TensorProto.EXTERNAL
        made.dims.extend(tensor.shape)
        for entry, text in zip(("location", "offset", "length"), (FILE, *map(str, places[key])), strict=True):
            made.external_data.add(key=entry, value=text)
        if tensor.dtype != value.dtype:
            made.name = name + _STORED
            kind = getattr(onnx.TensorProto, _KINDS[value.dtype])
            casts.append(onnx.helper.make_node("Cast", [made.name], [name], name=f"cast {name}", to=kind))
    nodes = [*casts, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.extend(inputs)
    graph.node.extend(nodes)


def _values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in (*module.named_parameters(), *module.named_buffers())}


def _results(exported: Exported, arguments: Mapping[str, Tensor]) -> Sequence[Tensor]:
    with torch.no_grad():
        found = exported.module(*arguments.values())
    return found if isinstance(found, tuple) else (found,)


def _distance(model: Any, exported: Exported, weights: WeightsFile, arguments: Mapping[str, Tensor]) -> float:
    """The largest distance of a result of onnxruntime from torch's; infinite if it fails, or for other shapes."""
    _, runtime = packages()
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4
    names, values = [], []
    for tensor in model.graph.initializer:
        if len(tensor.external_data):
            stored = weights.tensors[exported.key(tensor.name.removesuffix(_STORED))].detach().contiguous()
            names.append(tensor.name)
            values.append(_ort_value(runtime, stored, tensor.data_type))
    settings.add_external_initializers(names, values)
    try:
        session = runtime.InferenceSession(bytes_of(model), settings, providers=["CPUExecutionProvider"])
        taken = {put.name for put in session.get_inputs()}
        found = session.run(None, {name: value.numpy() for name, value in arguments.items() if name in taken})
    except Exception:  # whatever the runtime raises of a graph
        return float("inf")
    pairs = zip(map(torch.from_numpy, found), _results(exported, arguments), strict=True)
    return max(_apart(a, b) for a, b in pairs)


def _ort_value(runtime: Any, tensor: Tensor, kind: int) -> Any:
    if tensor.dtype == torch.bfloat16:
        return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(tensor.view(torch.uint16).numpy(), kind)
    return runtime.OrtValue.ortvalue_from_numpy(tensor.numpy())


def _apart(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    size = float(wanted.double().norm())
    return float((found.double() - wanted.double()).norm()) / (size or 1.0)
