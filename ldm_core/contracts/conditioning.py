"""The conditioning bundle: one typed value that carries every kind of conditioning, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ldm_core.contracts.run import SamplingRun
from ldm_core.contracts.values import EMPTY, Batch, CondSpec, joined
from ldm_core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Tokens(NamedTuple):
    """A set of tokens by itself: `values` (B, L, D), `mask` (B, L) bool, True = attend, None = all."""

    values: Tensor
    mask: Tensor | None = None

    @property
    def attended(self) -> Tensor:
        """The mask, all True where there is none."""
        import torch

        if self.mask is not None:
            return self.mask
        return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)


_FIELDS = ("crossattn", "crossattn_mask", "vector", "concat")
_MASKS = {"crossattn": "crossattn_mask", "tokens": "tokens_mask"}


def mask_of(part: str) -> str | None:
    """The name in :meth:`Cond.flat` of the mask of a set of tokens, by the name of its values; None for other parts."""
    group, slash, name = part.partition("/")
    return _MASKS[group] + slash + name if group in _MASKS else None


class Cond(NamedTuple):
    """Conditioning of B examples; what a part is for is said by its field, never by its rank. Build it by keyword.

    * `crossattn` (B, L, D), merged along L; `crossattn_mask` (B, L) bool, True = attend, None = all
    * `vector` (B, V), merged along V; `concat` (B, C', *s), merged along C'
    * `residuals` site -> (B, ...), summed; `extras` name -> (B, ...), a name twice is an error
    * `options`: static, not batched; bundles with different options run apart
    * `tokens` name -> :class:`Tokens`, sets with a role of their own; merged along L, padded and masked as crossattn
    """

    crossattn: Tensor | None = None
    crossattn_mask: Tensor | None = None
    vector: Tensor | None = None
    concat: Tensor | None = None
    residuals: Mapping[str, Tensor] = EMPTY
    extras: Mapping[str, Tensor] = EMPTY
    options: Mapping[str, Any] = EMPTY
    tokens: Mapping[str, Tokens] = EMPTY

    def flat(self) -> dict[str, Tensor]:
        """All tensors by name; those of a mapping as ``residuals/mid``, masks of tokens as ``tokens_mask/NAME``."""
        out = {k: v for k in _FIELDS if (v := getattr(self, k)) is not None}
        for group in ("residuals", "extras"):
            out.update({f"{group}/{k}": v for k, v in getattr(self, group).items()})
        if self.tokens:
            out.update({f"tokens/{k}": v.values for k, v in self.tokens.items()})
            out.update({f"tokens_mask/{k}": v.mask for k, v in self.tokens.items() if v.mask is not None})
        return out

    def unflat(self, tensors: Mapping[str, Tensor]) -> Cond:
        """The inverse of :meth:`flat`, with the options of `self`."""
        plain: dict[str, Any] = {k: v for k, v in tensors.items() if "/" not in k}
        groups: dict[str, dict[str, Any]] = {"residuals": {}, "extras": {}, "tokens": {}, "tokens_mask": {}}
        for key, value in tensors.items():
            if "/" in key:
                group, name = key.split("/", 1)
                groups[group][name] = value
        masks = groups.pop("tokens_mask")
        groups["tokens"] = {k: Tokens(v, masks.get(k)) for k, v in groups["tokens"].items()}
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
    def merge(conds: Iterable[Cond], specs: Iterable[CondSpec] | None = None) -> Cond:
        """Several conditioners' bundles of the same examples as one, crossattn joined as their `specs` declare.

        `specs`, one a bundle; without them all follow each other along L. Tokens that stand side by side are as many as
        the longest of their sets has: zeros stand where a set has none, or hides one. A joint token is hidden where all
        of its sets hide theirs or have none.
        """
        conds = list(conds)
        crossattn = _crossattn(conds, None if specs is None else list(specs))
        residuals: dict[str, Tensor] = {}
        extras: dict[str, Tensor] = {}
        options: dict[str, Any] = {}
        named: dict[str, list[Tokens]] = {}
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
            for name, tokens in c.tokens.items():
                named.setdefault(name, []).append(tokens)
        return Cond(
            crossattn=crossattn.values if crossattn else None,
            crossattn_mask=crossattn.mask if crossattn else None,
            vector=_cat([c.vector for c in conds]),
            concat=_cat([c.concat for c in conds]),
            residuals=residuals or EMPTY,
            extras=extras or EMPTY,
            options=options or EMPTY,
            tokens={name: _in_turn(sets) for name, sets in named.items()} or EMPTY,
        )

    @staticmethod
    def batch(conds: Sequence[Cond]) -> Cond:
        """Stack bundles of equal parts and options along B; tokens are padded to the longest, and masked."""
        import torch

        first = conds[0]
        if any(c.options != first.options for c in conds):
            raise ValueError("bundles with different options cannot be batched")
        flats = [c.flat() for c in conds]
        for part in [part for part in flats[0] if mask_of(part)]:
            if all(part in f for f in flats):
                _pad(flats, part, str(mask_of(part)))
        if any(f.keys() != flats[0].keys() for f in flats):
            raise ValueError(f"bundles hold different parts: {[sorted(f) for f in flats]}")
        return first.unflat({k: torch.cat([f[k] for f in flats]) for k in flats[0]})


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    import torch

    present = [p for p in parts if p is not None]
    if not present:
        return None
    return present[0] if len(present) == 1 else torch.cat(present, 1)


def _pad(flats: Sequence[dict[str, Tensor]], part: str, mask: str) -> None:
    """Bring a set of tokens to one length in all of `flats`, and a mask into all or none of them."""
    from torch.nn import functional as F

    lengths = [f[part].shape[1] for f in flats]
    if len(set(lengths)) == 1 and len({mask in f for f in flats}) == 1:
        return
    for f, length in zip(flats, lengths, strict=True):
        missing = max(lengths) - length
        attended = Tokens(f[part], f.get(mask)).attended
        f[part] = F.pad(f[part], (0, 0, 0, missing))
        f[mask] = F.pad(attended, (0, missing), value=False)


def _in_turn(sets: Sequence[Tokens]) -> Tokens:
    """Sets of tokens one after the other along L."""
    import torch

    if len(sets) == 1:
        return sets[0]
    mask = torch.cat([s.attended for s in sets], 1) if any(s.mask is not None for s in sets) else None
    return Tokens(torch.cat([s.values for s in sets], 1), mask)


def _crossattn(conds: Sequence[Cond], specs: Sequence[CondSpec] | None) -> Tokens | None:
    """The bundles' crossattn as one set."""
    sets = {str(i): Tokens(c.crossattn, c.crossattn_mask) for i, c in enumerate(conds) if c.crossattn is not None}
    if specs is None or all(spec.join == "length" and not spec.pad_to for spec in specs):
        return _in_turn([*sets.values()]) if sets else None
    writers = {str(i): spec for i, spec in enumerate(specs) if spec.crossattn}
    if writers.keys() != sets.keys():
        raise ValueError(f"bundles {[*sets]} hold crossattn, and specs {[*writers]} declare it; they must agree")
    return _in_turn([_side_by_side([sets[name] for name in group.names], group.width) for group in joined(writers)])


def _side_by_side(sets: Sequence[Tokens], width: int) -> Tokens:
    """Sets of tokens beside each other along D, with zeros up to `width`."""
    import torch
    from torch.nn import functional as F

    longest = max(s.values.shape[1] for s in sets)
    values, masks = [], []
    for s in sets:
        missing = longest - s.values.shape[1]
        hidden = len(sets) > 1 and s.mask is not None
        shown = s.values.masked_fill(~s.attended[..., None], 0) if hidden else s.values
        values.append(F.pad(shown, (0, 0, 0, missing)))
        masks.append(F.pad(s.attended, (0, missing), value=False))
    joint = torch.cat(values, 2)
    mask = torch.stack(masks).any(0) if any(s.mask is not None for s in sets) else None
    return Tokens(F.pad(joint, (0, width - joint.shape[2])), mask)


class Conditions:
    """One run's conditioning, kept apart by conditioner name, so that a guidance picks which of them are on.

    Merged bundles are kept for the run; `specs`, by conditioner, say how they join. `batch`: what was encoded, with all
    keys that it was made with, for a second model to encode; `seeds`: the images' own, from which its conditioners draw
    what this model's drew (None: nothing was drawn). `options`: the names that the model's parts accept; None = not
    known. `run`: the run of a sampler in which a guidance is asked; None outside of one.
    """

    def __init__(
        self,
        conds: Mapping[str, Cond],
        nulls: Mapping[str, Cond],
        *,
        batch: Batch = EMPTY,
        specs: Mapping[str, CondSpec] = EMPTY,
        seeds: Sequence[int] | None = None,
        options: Iterable[str] | None = None,
        run: SamplingRun | None = None,
    ) -> None:
        self._conds, self._nulls, self._specs = dict(conds), dict(nulls), specs
        self._picked: dict[frozenset[str], Cond] = {}
        self._again: dict[object, Any] = {}
        self._optional: list[tuple[frozenset[str], Mapping[str, object], Cond]] = []
        self._accepted = None if options is None else frozenset(options)
        self.batch, self.seeds = batch, None if seeds is None else tuple(seeds)
        self.run = run

    def in_run(self, run: SamplingRun) -> Conditions:
        """The same bundles for `run`, with nothing of what another run keeps."""
        other = copy(self)
        other._again, other._optional, other.run = {}, [], run
        return other

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
            bundles = [(self._conds if n in chosen else self._nulls)[n] for n in self._conds]
            specs = [self._specs[n] for n in self._conds] if self._specs else None
            return self._picked.setdefault(chosen, Cond.merge(bundles, specs))
        return self._picked[chosen]

    def with_options(self, names: Iterable[str], **options: object) -> Cond:
        """:meth:`pick` with static `options`, values that are the same at every step; the same object each time.

        A branch with options is evaluated apart from those with others; a denoiser or an adapter reads them as
        ``cond.options``. ConfigError for an option that none of them accepts.
        """
        self._require(options)
        chosen = frozenset(names)
        for kept, given, cond in self._optional:
            if kept == chosen and given == options:
                return cond
        picked = self.pick(chosen)
        made = picked._replace(options={**picked.options, **options})
        self._optional.append((chosen, options, made))
        return made

    def again(self, make: Callable[[Batch], T], key: object = None) -> T:
        """The result of `make` on the batch, such as a second model's conditioning; made once and kept for the run,
        under `key` (None: `make` itself)."""
        key = make if key is None else key
        if key not in self._again:
            self._again[key] = make(self.batch)
        made: T = self._again[key]
        return made

    @property
    def cond(self) -> Cond:
        """All conditioners on."""
        return self.pick(self._conds)

    @property
    def null(self) -> Cond:
        """None on."""
        return self.pick(())

    def _require(self, options: Iterable[str]) -> None:
        for name in options:
            if self._accepted is not None and name not in self._accepted:
                raise ConfigError(f"the guidance sets the option '{name}', {unaccepted(name, self._accepted)}")


def unaccepted(option: str, accepted: Iterable[str]) -> str:
    """The rest of a message on an option that no part reads: who might, the nearest name, and the fix."""
    known = ", ".join(sorted(accepted)) or "none"
    return (
        f"and no denoiser or adapter of the recipe accepts it{suggest(option, accepted)} (options that they accept: "
        f"{known}); add the adapter that reads it, or choose another guidance"
    )
