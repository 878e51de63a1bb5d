"""The model: a denoiser under a schedule and a parameterization, with its conditioners and adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import (
    EMPTY,
    Adapter,
    AdapterAnswers,
    Batch,
    Denoiser,
    DenoiserAnswers,
    Estimate,
    NoiseSchedule,
    Parameterization,
    Predict,
    SamplingRun,
    configs,
)
from ldm_core.contracts.conditioning import Cond, mask_of
from ldm_core.contracts.current import Evaluation, during
from ldm_core.contracts.provisional import DiffusionModel
from ldm_core.contracts.run import current_run
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.contracts.values import CondSpec, Precision
from ldm_core.model.arithmetic import arithmetic
from ldm_core.model.conformance.breaches import Named, inside
from ldm_core.model.conformance.first_batch import Contracts, is_output
from ldm_core.model.degraded import for_conditioners
from ldm_core.model.shared import hooks_of, shared_copy
from ldm_core.nn.recompute import recompute, recomputing

_MOST_BUNDLES = 32  # prepared for a run; a guidance with new ones at each step must not fill the memory


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """A coefficient (B,) in float64 -> (B, 1, ...) in `like`'s dtype and device, to multiply `like` with."""
    return value.to(device=like.device, dtype=like.dtype).view(-1, *[1] * (like.dim() - 1))


class Model(nn.Module):
    """Estimates x0 from x at time t: ``x0 = c_skip x + c_out F(c_in x)``; float32 outside the network.

    `denoiser` is F; `conditioners`, by name, in recipe order, are part of the model (their weights train, average and
    travel with it); `adapters`, by the key of their state, hook into it (all of them, modules or not, are in
    `attached`). `precision` ``bf16`` or ``fp16`` runs the network and the conditioners' weights under autocast; the
    results are float32 again.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        conditioners: Mapping[str, nn.Module] | None = None,
        adapters: Mapping[str, Adapter] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.conditioners = nn.ModuleDict(conditioners or {})
        self.schedule = schedule
        self.parameterization = parameterization
        self.precision: Precision = "fp32"
        self.precisions: Mapping[str, tuple[Precision, ...]] = EMPTY
        """The arithmetic that parts allow, as :func:`ldm_core.model.arithmetic.allowed_by` names them."""
        self.draws: Collection[str] = ()
        """The conditioners that draw noise."""
        self.contracts: Contracts | None = None
        """The promises of its parts, if a recipe is known: see :mod:`ldm_core.model.conformance.first_batch`."""
        self._function: Callable[..., Tensor] | None = None  # a runtime's, in the denoiser's place
        self._hooks = hooks_of([self])  # without any adapter's
        self.attached: dict[str, Adapter] = {}
        self.adapters = nn.ModuleDict()
        for key, adapter in (adapters or {}).items():
            self.take(key, adapter)

    def take(self, key: str, adapter: Adapter) -> None:
        """Attach one more adapter, under the key of its state."""
        self.attached[key] = adapter
        if isinstance(adapter, nn.Module):
            self.adapters[key] = adapter
        adapter.attach(self)

    def beside(self, adapters: Mapping[str, Adapter]) -> Model:
        """The same model with these adapters in place of its own, which stay where they are: with modules of its own
        and the same tensors, so that both run side by side."""
        hooks = self._hooks if self.attached else hooks_of([self])
        made = cast(Model, shared_copy([self], hooks)[self])
        made._hooks, made.attached, made.adapters, made._function = hooks, {}, nn.ModuleDict(), None
        made.precisions = {k: v for k, v in self.precisions.items() if not k.startswith("adapters.")}
        for key, adapter in adapters.items():
            made.take(key, adapter)
        return made

    @property
    def strengths(self) -> tuple[float | None, ...]:
        """The scales of the adapters, as they are now."""
        return tuple(configs.of(AdapterAnswers, adapter).scale for adapter in self.attached.values())

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def allowed(self, part: str) -> tuple[Precision, ...]:
        """The arithmetic that a part allows."""
        return self.precisions.get(part) or configs.allowed_precisions(part, None)

    def runs_in(self, part: str) -> Precision:
        """The arithmetic of a part: the model's precision, or another one that the part allows."""
        return configs.precision_among(self.allowed(part), self.precision)

    def autocast(self, part: str = "denoiser") -> Any:
        """The context for running a part's networks."""
        runs = self.runs_in(part)
        return nullcontext() if runs == self.precision == "fp32" else arithmetic(self.device.type, runs)

    def _named(self, part: str) -> Named | None:
        return None if self.contracts is None else self.contracts.parts.get(part)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) at t (B,), float64, each (B,)."""
        t = t.double()
        return self.parameterization.coefficients(self.schedule.alpha(t), self.schedule.sigma(t))

    def network(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *s), t (B,) -> the denoiser's output, float32: F and, beyond C channels, its own."""
        c_in = self.coefficients(t)[2]
        level = self.schedule.noise_level(t.double()).to(device=x.device, dtype=torch.float32)
        held, run = self.contracts, current_run()
        if run is not None:
            self.begin(run)
        if recomputing() and (blocks := configs.of(DenoiserAnswers, self.denoiser).recompute_blocks) is not None:
            recompute(blocks())
        now = Evaluation(cond, level, t, run, tuple(x.shape[2:]))
        with self.autocast(), inside(self._named("denoiser"), "forward"), during(now):
            out: Tensor = (self._function or self.denoiser)(x * per_example(c_in, x), level, cond)  # type: ignore[operator]
        if held is not None:
            if not is_output(out, x):
                raise held.network_breach(out, x)
            if held.is_open:
                held.hold_network(out, x, cond)
        return out.float()

    def begin(self, run: SamplingRun) -> None:
        """Tell the adapters that they serve `run`, and at its end that it ends; a second call does nothing."""
        run.state(self, lambda: self._begin(run))

    def _begin(self, run: SamplingRun) -> bool:
        for key, adapter in self.attached.items():
            told, part = configs.of(AdapterAnswers, adapter), self._named(f"adapters.{key}")
            if told.begin is not None:
                with inside(part, "begin"):
                    told.begin(run)
            if told.end is not None:
                run.at_end(partial(_end, told.end, part))
        return True

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Estimate:
        """x (B, C, *s) at times t (B,) -> the estimate of x0, in x's dtype (float32 or better)."""
        out = self.network(x, t, cond)
        c_skip, c_out, _ = self.coefficients(t)
        f, extra = out[:, : x.shape[1]], out[:, x.shape[1] :]
        x0 = per_example(c_skip, x) * x + per_example(c_out, x) * f.to(x.dtype)
        return Estimate(x0, extra if extra.shape[1] else None)

    def encode(
        self, batch: Batch, names: Iterable[str] | None = None, *, seeds: Sequence[int] | None = None
    ) -> dict[str, Cond]:
        """Each conditioner's bundle for a collated batch, by name; floating tensors are float32. `names`: of these.

        `seeds`, one an example, are those of the noise that conditioners draw, each from streams of its own; None =
        their deterministic mode.
        """
        held, conds, batch = self.contracts, {}, for_conditioners(batch)
        for name in self.conditioners if names is None else names:
            with self.autocast(part := f"conditioners.{name}"), inside(self._named(part), "encode"):
                given = batch if held is None else held.given(batch, name)
                drawn = {"streams": self._streams(name, seeds)} if name in self.draws else {}
                conds[name] = self.conditioners[name].encode(given, **drawn)  # type: ignore[operator]
        if held is not None and held.is_open:
            held.hold_bundles(conds, batch, self.device)
        return {name: c.map(_float) for name, c in conds.items()}

    def _streams(self, conditioner: str, seeds: Sequence[int] | None) -> Streams | None:
        if seeds is None:
            return None
        return Streams([mix_seed("conditioner", conditioner, seed) for seed in seeds], self.device)

    @property
    def specs(self) -> dict[str, CondSpec]:
        """The conditioners' specs by name, which say how their bundles join."""
        return {name: part.spec for name, part in self.conditioners.items()}  # type: ignore[misc]

    def merged(self, conds: Mapping[str, Cond]) -> Cond:
        """The conditioners' bundles, by name, as the one that the denoiser is handed."""
        return Cond.merge(conds.values(), [self.conditioners[name].spec for name in conds])  # type: ignore[misc]

    def nulls(self, conds: Mapping[str, Cond]) -> dict[str, Cond]:
        """Each conditioner's "no condition" bundle, shaped as `conds`."""
        held, nulls = self.contracts, {}
        for name, cond in conds.items():
            with self.autocast(part := f"conditioners.{name}"), inside(self._named(part), "null"):
                null = self.conditioners[name].null(cond)  # type: ignore[operator]
                nulls[name] = null.map(_float) if isinstance(null, Cond) else null
        if held is not None and held.is_open:
            held.hold_nulls(nulls, conds)
        return nulls

    def dropped(self, batch: Batch, rates: Mapping[str, float], joint: float, streams: Streams) -> Cond:
        """Encode a batch for training: each conditioner loses its condition at its own rate, all at `joint`.

        The dropped conditions of an example depend on its stream alone, and what its conditioners draw on the stream's
        seed.
        """
        return self.kept(self.encode(batch, seeds=streams.seeds), rates, joint, streams)

    def kept(
        self,
        conds: Mapping[str, Cond],
        rates: Mapping[str, float],
        joint: float,
        streams: Streams,
        nulls: Mapping[str, Cond] | None = None,
    ) -> Cond:
        """Bundles, by conditioner, as :meth:`dropped` leaves and merges them. `nulls`: theirs, where they are made."""
        if not conds:
            return Cond()
        conds = dict(conds)
        draws = streams.uniform((len(streams), 1 + len(conds))).to(self.device)
        if joint or any(rates.get(name, 0.0) for name in conds):
            nulls = self.nulls(conds) if nulls is None else nulls
            all_kept = draws[:, 0] >= joint
            for i, name in enumerate(conds):
                keep = all_kept & (draws[:, i + 1] >= rates.get(name, 0.0))
                conds[name] = conds[name].where(keep, nulls[name])
        return self.merged(conds)


def computed_by(model: Model, function: Callable[..., Tensor]) -> Model:
    """The same model, everything shared, with `function` in the place of the denoiser's call."""
    made = copy(model)
    made._function = function
    return made


def _end(end: Callable[[SamplingRun], None], part: Named | None, run: SamplingRun) -> None:
    with inside(part, "end"):
        end(run)


def _float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def make_predict(model: Model, *, together: bool = True) -> Predict:
    """The `predict` of a run: evaluates branches of a guidance, in one call of the network if possible.

    Branches with equal options and equal parts are batched (`together`), else run one by one; the results are the same
    to rounding. A bundle is batched once a run, and the denoiser's `prepare`, if it has one, is applied to the result:
    conditioning is not copied, and keys and values are not computed, at each step, but anew for other scales of the
    adapters.
    """
    prepare = configs.of(DenoiserAnswers, model.denoiser).prepare or (lambda cond: cond)
    ready: dict[tuple[Any, ...], tuple[list[Cond], Cond]] = {}

    def batch(conds: list[Cond]) -> Cond:
        key = (*map(id, conds), model.strengths)
        if key not in ready:
            with model.autocast(), inside(model._named("denoiser"), "prepare"):
                found = prepare(conds[0] if len(conds) == 1 else Cond.batch(conds))
            if len(ready) >= _MOST_BUNDLES:
                del ready[next(iter(ready))]
            ready[key] = (conds, found)  # the list keeps the ids alive
        return ready[key][1]

    def predict(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
        groups: list[list[int]] = []
        for i, cond in enumerate(branches):
            home = next((g for g in groups if together and _alike(branches[g[0]], cond)), None)
            if home is None:
                groups.append([i])
            else:
                home.append(i)
        out: list[Estimate | None] = [None] * len(branches)
        for group in groups:
            n = len(group)
            cond = batch([branches[i] for i in group])
            if n == 1:
                out[group[0]] = model(x, t, cond)
                continue
            both = model(torch.cat([x] * n), torch.cat([t] * n), cond)
            extras = both.extra.chunk(n) if both.extra is not None else [None] * n
            for i, x0, extra in zip(group, both.x0.chunk(n), extras, strict=True):
                out[i] = Estimate(x0, extra)
        return [e for e in out if e is not None]

    return predict


def _alike(a: Cond, b: Cond) -> bool:
    mine, theirs = a.flat(), b.flat()
    masks = {mask_of(part) for part in mine}
    return a.options == b.options and mine.keys() - masks == theirs.keys() - masks and bool(mine)


class PredictionError(NamedTuple):
    """A network's distance from an exact one: `value` (B, C, *s) float32, and the coefficients (B,) float64 there."""

    value: Tensor
    alpha: Tensor
    sigma: Tensor
    c_out: Tensor


def prediction_error(model: DiffusionModel, x0: Tensor, eps: Tensor, t: Tensor, cond: Cond) -> PredictionError:
    """F - F* at x = alpha(t) x0 + sigma(t) eps; x0 and eps (B, C, *s) float32, t (B,)."""
    alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
    c_skip, c_out, _ = model.parameterization.coefficients(alpha, sigma)
    # F* = (x0 - c_skip x) / c_out with x = alpha x0 + sigma eps put in: the two weights in double precision are
    # exact even if the difference in float32 would lose digits (eps at small sigma: weights 0 and 1).
    target = _scaled((1 - c_skip * alpha) / c_out, x0) + _scaled(-c_skip * sigma / c_out, eps)
    x = _scaled(alpha, x0) + _scaled(sigma, eps)
    error = model.network(x, t, cond)[:, : x0.shape[1]].float() - target
    return PredictionError(error, alpha, sigma, c_out)


def _scaled(factor: Tensor, x: Tensor) -> Tensor:
    """`factor` (B,) float64 times `x` (B, ...) in x's dtype."""
    return factor.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) * x
