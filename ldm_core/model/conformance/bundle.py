"""The rules for a conditioner's bundle: held to its spec in a run and in the conformance kit alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm_core.contracts.conditioning import Cond, Tokens, mask_of
from ldm_core.contracts.values import CondSpec
from ldm_core.model.conformance.breaches import Named, breach, shown, unsound

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def bundle_problems(cond: Any, spec: CondSpec, rows: int | None, grid: Sequence[int] | None) -> Iterator[str]:
    """The breaches of `spec` by a bundle, a line each: ``wrote X; expected: Y``. `rows`: B, `grid`: the latents' axes,
    if they are known."""
    if not isinstance(cond, Cond):
        yield f"returned {type(cond).__name__}; expected: a Cond (ldm_core.contracts.Cond), built by keyword"
        return
    if loose := [name for name, tokens in cond.tokens.items() if not isinstance(tokens, Tokens)]:
        yield f"wrote the tokens '{loose[0]}' as {type(cond.tokens[loose[0]]).__name__}; expected: Tokens(values, mask)"
        return
    for part, value in cond.flat().items():
        if not isinstance(value, Tensor):
            yield f"wrote {part} as {type(value).__name__}; expected: a tensor"
            return
    yield from _widths(cond, spec)
    yield from _names(cond, spec)
    for part, value in cond.flat().items():
        if rows is not None and (value.dim() == 0 or value.shape[0] != rows):
            yield f"wrote {part} {shown(value)}; expected: {rows} rows, one an example of the batch"
        if (part in ("vector", "concat") or mask_of(part)) and value.dtype not in _FLOATS:
            yield f"wrote {part} as {shown(value)}; expected: float32, or what autocast makes of it"
    if grid is not None and cond.concat is not None and tuple(cond.concat.shape[2:]) != tuple(grid):
        yield f"wrote concat {shown(cond.concat)}; expected: the latents' axes {tuple(grid)}"
    if cond.crossattn_mask is not None and cond.crossattn is None:
        yield "wrote a crossattn_mask without crossattn; expected: tokens that it is the mask of"
    yield from _masks(cond)


def _masks(cond: Cond) -> Iterator[str]:
    flat = cond.flat()
    for part, values in flat.items():
        name = mask_of(part) or ""
        if (mask := flat.get(name)) is None:
            continue
        if mask.dtype != torch.bool or mask.shape != values.shape[:2]:
            yield f"wrote {name} {shown(mask)}; expected: bool {tuple(values.shape[:2])}, True = attend"
        elif not bool(mask.any(1).all()):
            yield f"wrote a {name} with a row that attends to nothing; expected: a True in each row"


def _widths(cond: Cond, spec: CondSpec) -> Iterator[str]:
    forms = {"crossattn": "(B, L, {})", "vector": "(B, {})", "concat": "(B, {}, *s)"}
    for part, form in forms.items():
        value, width = getattr(cond, part), getattr(spec, part)
        wanted = f"{form.format(width)}, as its spec declares {part}={width}" if width else "nothing"
        if value is None:
            if width:
                yield f"wrote no {part}; expected: {wanted}"
            continue
        axis = 1 if part == "concat" else -1
        fits = value.dim() == 3 if part == "crossattn" else value.dim() == 2 if part == "vector" else value.dim() > 2
        if not width or not fits or value.shape[axis] != width:
            undeclared = "" if width else f", since its spec declares no {part}"
            yield f"wrote {part} {shown(value)}; expected: {wanted}{undeclared}"


def _names(cond: Cond, spec: CondSpec) -> Iterator[str]:
    for part, found, declared in (
        ("residuals", set(cond.residuals), set(spec.residuals)),
        ("extras", set(cond.extras), set(spec.extras)),
        ("tokens", set(cond.tokens), set(spec.tokens)),
    ):
        if found != declared:
            yield f"wrote {part} {sorted(found)}; expected: {sorted(declared)}, as its spec declares"
    for name, width in spec.tokens.items():
        if (tokens := cond.tokens.get(name)) is not None:
            values = tokens.values
            if values.dim() != 3 or values.shape[2] != width:
                yield f"wrote the tokens '{name}' {shown(values)}; expected: (B, L, {width}), as its spec declares"
    for name, shape in spec.extras.items():
        if (value := cond.extras.get(name)) is None:
            continue
        own = tuple(value.shape[1:])
        if len(own) != len(shape) or any(w not in (None, g) for w, g in zip(shape, own, strict=True)):
            wanted = ", ".join("free" if w is None else str(w) for w in shape)
            yield f"wrote the extra '{name}' {shown(value)}; expected: (B{', ' if wanted else ''}{wanted})"


def null_problems(null: Any, like: Cond) -> Iterator[str]:
    """The differences of a null from the bundle it stands for, a line each."""
    if not isinstance(null, Cond):
        yield f"returned {type(null).__name__}; expected: a Cond"
        return
    mine, theirs = null.flat(), like.flat()
    if mine.keys() != theirs.keys():
        yield f"wrote {sorted(mine)}; expected: {sorted(theirs)}, the parts of encode"
        return
    for name, value in theirs.items():
        got = mine[name]
        if not isinstance(got, Tensor):
            yield f"wrote {name} as {type(got).__name__}; expected: a tensor"
        elif got.shape != value.shape or got.dtype != value.dtype:
            yield f"wrote {name} {shown(got)}; expected: {shown(value)}, as encode does"
        elif got.device != value.device:
            yield f"wrote {name} on {got.device}; expected: {value.device}, where encode's is"
    if null.options != like.options:
        yield "has other options than encode's; expected: the same"


def lost(values: Tensor) -> bool:
    """True if no row of `values` (B, ...) is finite: then the part, and not an example, is at fault."""
    if values.numel() and bool(values.detach().sum().isfinite()):  # one pass: a finite sum has finite terms
        return False
    return not bool(values.detach().reshape(len(values), -1).isfinite().all(1).any())


def hold_bundle(
    part: Named, cond: Any, spec: CondSpec, batch: Mapping[str, Any], *, grid: Any, device: torch.device
) -> None:
    """:class:`~ldm_core.errors.ContractError` if encode's bundle of `batch`, the keys it reads, is not as `spec`
    declares or elsewhere than on `device`; :class:`~ldm_core.errors.NotFiniteError` if no row of it is finite though
    the batch is."""
    rows = next((len(value) for value in batch.values()), None)
    sound = not any(isinstance(v, Tensor) and v.is_floating_point() and lost(v) for v in batch.values())
    for problem in bundle_problems(cond, spec, rows, grid):
        seen, _, expected = problem.partition("; expected: ")
        raise breach(part, "encode", seen, expected, "write what the config's spec(latent) declares, or declare this")
    for name, value in cond.flat().items():
        if value.device.type != device.type:
            raise breach(
                part, "encode", f"wrote {name} on {value.device}", f"{device}, where the model is", "create tensors on "
                "the device of the inputs or of the parameters, and never pick one"
            )  # fmt: skip
        if sound and value.is_floating_point() and value.numel() and lost(value):
            raise unsound(part, "encode", name)


def hold_null(part: Named, null: Any, like: Cond) -> None:
    """:class:`~ldm_core.errors.ContractError` if a null is not as the bundle it stands for."""
    for problem in null_problems(null, like):
        seen, _, expected = problem.partition("; expected: ")
        raise breach(part, "null", seen, expected, "make it from the tensors of `like` (torch.zeros_like)")
