"""A part in breach of its contract, told in the contract's own words; an exception of its code, told with its owner.

Imports no torch.
"""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import Any

import attrs

from ldm_core import contracts
from ldm_core.catalog import Catalog
from ldm_core.errors import ContractError, LDMError, NotFiniteError, clean
from ldm_core.recipe.recipe import Part

_CONTRACTS: dict[str, type] = {
    "first_stage": contracts.FirstStage,
    "conditioner": contracts.Conditioner,
    "decoder": contracts.Decoder,
    "denoiser": contracts.Denoiser,
    "sampler": contracts.Sampler,
    "schedule": contracts.NoiseSchedule,
    "parameterization": contracts.Parameterization,
    "objective": contracts.Objective,
    "stage_objective": contracts.StageObjective,
    "auxiliary_loss": contracts.AuxiliaryLoss,
    "guidance": contracts.Guidance,
    "time_grid": contracts.TimeGrid,
    "adapter": contracts.Adapter,
    "runtime": contracts.Runtime,
    "dataset": contracts.Dataset,
    "degradation": contracts.Degradation,
}
_SUITES = {"schedule": "ScheduleSuite", "time_grid": "TimeGridSuite", "first_stage": "FirstStageSuite"}
_NOTE = "the fault is in"


@attrs.frozen
class Named:
    """A part as messages name it: its kind, its name in the recipe, its name in the catalog, its distribution."""

    kind: str
    name: str
    use: str
    distribution: str

    def __str__(self) -> str:
        whose = f"'{self.use}' of {self.distribution}" if self.use != self.name else self.distribution
        return f"{self.kind.replace('_', ' ')} '{self.name}' ({whose})"


def named(part: Part, catalog: Catalog) -> Named:
    """The name of a recipe's part in messages."""
    entry, _ = catalog.get(part.kind, part.use)
    return Named(part.kind, getattr(part, "name", part.use), part.use, f"{entry.distribution} {entry.version}")


def contract_line(kind: str, method: str) -> str:
    """The line of the contract of `kind` on a method, in its own words; "" for an attribute."""
    own = getattr(_CONTRACTS[kind], method, None)
    return " ".join((inspect.getdoc(own) or "").split()) if callable(own) else ""


def breach(part: Named, method: str, seen: str, expected: str, fix: str = "") -> ContractError:
    """The error of a part with a `method` (or attribute) in breach of its contract."""
    contract = _CONTRACTS[part.kind]
    line = contract_line(part.kind, method)
    suite = _SUITES.get(part.kind, f"{contract.__name__}Suite")
    lines = [
        f"{part} breaks its contract: {method} {clean(seen)}; expected: {expected}",
        *([f"contract {contract.__name__}.{method}: {line}"] if line else []),
        f"to fix in the plugin{': ' + fix if fix else ''}; its author's check is ldm_core.testing.{suite}",
    ]
    return ContractError("\n".join(lines))


def unsound(part: Named, method: str, what: str) -> NotFiniteError:
    """The error of a part that makes NaN or infinity of finite inputs, be it by its code or by its weights."""
    return NotFiniteError(
        f"{part}: {method} makes {what} of which no row is finite (NaN or infinite), though its inputs are; look for "
        "NaN in its weights (`weights.describe` names it), take precision fp32, or mend what it divides by"
    )


class inside:
    """A context around a call of a part's own code: its exceptions keep their traceback and name the part."""

    __slots__ = ("_method", "_part")

    def __init__(self, part: Named | None, method: str) -> None:
        self._part, self._method = part, method

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None or self._part is None or not isinstance(error, Exception) or isinstance(error, LDMError):
            return
        if not any(_NOTE in note for note in getattr(error, "__notes__", ())):  # the innermost part is the one
            error.add_note(f"in {self._method} of {self._part}: {_NOTE} that part, or in what its settings allow")


def shown(value: Any) -> str:
    """A value from a part, for a message: ``float32 (2, 4)``, or its type."""
    shape = getattr(value, "shape", None)
    if shape is None or not hasattr(value, "dtype"):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(shape)}"
