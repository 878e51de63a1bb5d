"""The conditioning bundle: one typed value that carries every kind of conditioning, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ldm_core.contracts.values import EMPTY, Batch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Cond(NamedTuple):
    """Conditioning of B examples; what a part is for is said by its field, never by its rank. Build it by keyword.

    * `crossattn` (B, L, D), merged along L; `crossattn_mask` (B, L) bool, True = attend, None = all
    * `vector` (B, V), merged along V; `concat` (B, C', *s), merged along C'
    * `residuals` site -> (B, ...), summed; `extras` name -> (B, ...), a name twice is an error
    * `options`: static, not batched; bundles with different options run apart
    """

    crossattn: Tensor | None = None
    crossattn_mask: Tensor | None = None
    vector: Tensor | None = None
    concat: Tensor | None = None
    residuals: Mapping[str, Tensor] = EMPTY
    extras: Mapping[str, Tensor] = EMPTY
    options: Mapping[str, Any] = EMPTY

    def flat(self) -> dict[str, Tensor]:
        """All tensors by name; those of a mapping as ``residuals/mid``."""
        out = {k: v for k in ("crossattn", "crossattn_mask", "vector", "concat") if (v := getattr(self, k)) is not None}
        for group in ("residuals", "extras"):
            out.update({f"{group}/{k}": v for k, v in getattr(self, group).items()})
        return out

    def unflat(self, tensors: Mapping[str, Tensor]) -> Cond:
        """The inverse of :meth:`flat`, with the options of `self`."""
        plain: dict[str, Any] = {k: v for k, v in tensors.items() if "/" not in k}
        groups: dict[str, dict[str, Tensor]] = {"residuals": {}, "extras": {}}
        for key, value in tensors.items():
            if "/" in key:
                group, name = key.split("/", 1)
                groups[group][name] = value
        plain.update({k: v or EMPTY for k, v in groups.items()})
        return Cond(**plain, options=self.options)

    def map(self, f: Callable[[Tensor], Tensor]) -> Cond:
        """Apply `f` to every tensor."""
        return self.unflat({k: f(v) for k, v in self.flat().items()})

    def to(self, device: Any = None) -> Cond:
        """Move every tensor to `device`."""
        return self.map(lambda v: v.to(device=device))

    def rows(self) -> int | None:
        """B, or None where the bundle holds no tensor."""
        return next((v.shape[0] for v in self.flat().values()), None)

    def where(self, keep: Tensor, other: Cond) -> Cond:
        """Row i of `self` where ``keep[i]`` (B,) bool, else of `other`; same parts and shapes, else ValueError."""
        import torch

        mine, theirs = self.flat(), other.flat()
        if mine.keys() != theirs.keys():
            raise ValueError(f"bundles hold different parts: {sorted(mine)} and {sorted(theirs)}")
        out = {}
        for key, value in mine.items():
            if value.shape != theirs[key].shape:
                raise ValueError(f"'{key}' has shapes {tuple(value.shape)} and {tuple(theirs[key].shape)}")
            out[key] = torch.where(keep.view(-1, *[1] * (value.dim() - 1)).to(value.device), value, theirs[key])
        return self.unflat(out)

    @staticmethod
    def merge(conds: Iterable[Cond]) -> Cond:
        """Several conditioners' bundles of the same examples as one."""
        import torch

        conds = list(conds)
        tokens = [c for c in conds if c.crossattn is not None]
        mask = None
        if any(c.crossattn_mask is not None for c in tokens):
            mask = torch.cat([_mask(c) for c in tokens], 1)
        residuals: dict[str, Tensor] = {}
        extras: dict[str, Tensor] = {}
        options: dict[str, Any] = {}
        for c in conds:
            for site, value in c.residuals.items():
                residuals[site] = residuals[site] + value if site in residuals else value
            for name, value in c.extras.items():
                if name in extras:
                    raise ValueError(f"two conditioners write the extra '{name}'")
                extras[name] = value
            for name, value in c.options.items():
                if name in options and options[name] != value:
                    raise ValueError(f"two conditioners set the option '{name}' differently")
                options[name] = value
        return Cond(
            crossattn=_cat([c.crossattn for c in conds]),
            crossattn_mask=mask,
            vector=_cat([c.vector for c in conds]),
            concat=_cat([c.concat for c in conds]),
            residuals=residuals or EMPTY,
            extras=extras or EMPTY,
            options=options or EMPTY,
        )

    @staticmethod
    def batch(conds: Sequence[Cond]) -> Cond:
        """Stack bundles of equal parts and options along B; tokens are padded to the longest, and masked."""
        import torch
        from torch.nn import functional as F

        first = conds[0]
        if any(c.options != first.options for c in conds):
            raise ValueError("bundles with different options cannot be batched")
        lengths = [c.crossattn.shape[1] if c.crossattn is not None else 0 for c in conds]
        padded = list(conds)
        if len(set(lengths)) > 1 or any((c.crossattn_mask is None) != (first.crossattn_mask is None) for c in conds):
            longest = max(lengths)
            padded = [
                c._replace(
                    crossattn=F.pad(c.crossattn, (0, 0, 0, longest - n)),
                    crossattn_mask=F.pad(_mask(c), (0, longest - n), value=False),
                )
                if c.crossattn is not None
                else c
                for c, n in zip(conds, lengths, strict=True)
            ]
        flats = [c.flat() for c in padded]
        if any(f.keys() != flats[0].keys() for f in flats):
            raise ValueError(f"bundles hold different parts: {[sorted(f) for f in flats]}")
        return first.unflat({k: torch.cat([f[k] for f in flats]) for k in flats[0]})


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    import torch

    present = [p for p in parts if p is not None]
    if not present:
        return None
    return present[0] if len(present) == 1 else torch.cat(present, 1)


def _mask(cond: Cond) -> Tensor:
    import torch

    if cond.crossattn_mask is not None:
        return cond.crossattn_mask
    assert cond.crossattn is not None
    return torch.ones(cond.crossattn.shape[:2], dtype=torch.bool, device=cond.crossattn.device)


class Conditions:
    """One run's conditioning, kept apart by conditioner name, so that a guidance picks which of them are on.

    Merged bundles are kept for the run. `batch`: what was encoded, with all keys that it was made with, for a second
    model to encode.
    """

    def __init__(self, conds: Mapping[str, Cond], nulls: Mapping[str, Cond], *, batch: Batch = EMPTY) -> None:
        self._conds, self._nulls = dict(conds), dict(nulls)
        self._picked: dict[frozenset[str], Cond] = {}
        self._again: dict[Callable[[Batch], Any], Any] = {}
        self.batch = batch

    @property
    def names(self) -> tuple[str, ...]:
        """The conditioners' names in recipe order."""
        return tuple(self._conds)

    def pick(self, names: Iterable[str]) -> Cond:
        """All conditioners merged, those in `names` on and the others null; the same object each time."""
        chosen = frozenset(names)
        if unknown := chosen - self._conds.keys():
            raise ValueError(f"no conditioner named {sorted(unknown)}; there are {list(self._conds)}")
        if chosen not in self._picked:
            self._picked[chosen] = Cond.merge((self._conds if n in chosen else self._nulls)[n] for n in self._conds)
        return self._picked[chosen]

    def again(self, make: Callable[[Batch], T]) -> T:
        """The result of `make` on the batch, such as a second model's conditioning; made once and kept for the run."""
        if make not in self._again:
            self._again[make] = make(self.batch)
        made: T = self._again[make]
        return made

    @property
    def cond(self) -> Cond:
        """All conditioners on."""
        return self.pick(self._conds)

    @property
    def null(self) -> Cond:
        """None on."""
        return self.pick(())
