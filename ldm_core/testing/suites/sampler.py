"""The conformance suite of samplers: mostly the Gaussian problem, where everything is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from ldm_core.contracts import Denoise, Estimate, NoiseSchedule, Sampler
from ldm_core.contracts.streams import Streams
from ldm_core.testing import batches, gaussian, toys
from ldm_core.testing.base import largest_difference, same
from ldm_core.testing.rules import Rule, must_raise
from ldm_core.testing.tensors import TensorSuite

_SHAPE = (3, 4, 4)
_DIVIDES = Rule(
    Sampler.sample,
    "divide by sigma(times[i])",
    "write the step in x0 and eps = (x - alpha x0) / sigma, or set divides_by_alpha = True in the suite",
)
_ON_STEP = Rule(
    Sampler.sample,
    "a tensor that it returns replaces x",
    "after each step: other = on_step(i, times[i + 1], x, x0); x = x if other is None else other; catch nothing",
)
_CONVERGES = Rule(
    Sampler.sample,
    "With more steps the result converges",
    "compare the step with its source: coefficients at times[i] and times[i + 1], one step for each pair of times",
)
_STREAMS = Rule(
    Sampler.sample,
    "`streams` is required when noise is drawn",
    "raise ValueError before the first step where streams is None, and draw by streams.normal(x.shape)",
)


@contextmanager
def _dividing(where: str) -> Iterator[None]:
    """Add the rule of divisions to a division by zero."""
    try:
        yield
    except ZeroDivisionError as error:
        told = AssertionError(f"{where}: the sampler divides by zero ({error})")
        _DIVIDES.quote(told)
        raise told from error


class SamplerSuite(TensorSuite):
    """Subclass it, set `component`, and `order` for a deterministic sampler of order above 1.

    The order is measured on times from t_max to 0, graded towards data. With `spacing` ``log_snr`` they are even in
    ln(sigma / alpha), for methods that integrate in it. `divides_by_alpha` says openly that the sampler cannot begin at
    alpha = 0; its rectified flow then begins a little later. `exact_noise` False says that it draws more noise than a
    level has, as DDPM's larger variance does. The kit finds out by itself if a sampler draws noise.
    """

    kind = "sampler"
    protocol: ClassVar[type] = Sampler
    order: ClassVar[float] = 1.0
    spacing: ClassVar[Literal["graded", "log_snr"]] = "graded"
    divides_by_alpha: ClassVar[bool] = False
    exact_noise: ClassVar[bool] = True
    problem: ClassVar[gaussian.Gaussian] = gaussian.Gaussian()

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        """x at t_max of a VP table (B, C, *s), the times, and a seed a row."""
        schedule = toys.schedules()["table"]
        return {
            "x": batches.normal(rows, _SHAPE, "x"),
            "times": toys.even_times(schedule, 8),
            "seeds": toys.seeds(rows),
        }

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """One run on the Gaussian problem, on the device of x; times stay on the CPU as in the core."""
        x, schedule = inputs["x"], toys.schedules()["table"]
        streams = Streams(inputs["seeds"], x.device)
        return {"x": component.sample(self.denoise(schedule), x, inputs["times"].cpu(), schedule, streams=streams)}

    def denoise(self, schedule: NoiseSchedule) -> Denoise:
        """The exact denoiser, with a check of its arguments."""
        exact = self.problem.denoise(schedule)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            assert t.shape == x.shape[:1], f"denoise is called with t of shape {tuple(t.shape)}, not (B,)"
            return exact(x, t.to(x.device))

        return estimate

    def times(self, schedule: NoiseSchedule, steps: int, end: float = 0.0) -> Tensor:
        """Times from t_max, or from just below it where alpha is 0 there and the sampler divides by it."""
        start = schedule.t_max
        if self.divides_by_alpha and float(schedule.alpha(torch.tensor(start))) == 0.0:
            start *= 0.999
        return gaussian.graded_times(start, end * schedule.t_max, steps)

    def draws_noise(self, sampler: Any) -> bool:
        """True of a sampler that draws noise: without streams it raises ValueError, as the contract says."""
        schedule = toys.schedules()["cosine"]
        try:
            sampler.sample(self.denoise(schedule), batches.normal([0], _SHAPE), self.times(schedule, 3), schedule)
        except ValueError:
            return True
        except (AttributeError, TypeError) as error:
            if "NoneType" not in str(error):
                raise
            told = AssertionError(f"without streams the sampler raises {type(error).__name__} ({error})")
            _STREAMS.quote(told)
            raise told from error
        return False

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @_CONVERGES
    def test_converges_to_the_exact_solution(self, name: str) -> None:
        """Deterministic: the error against the exact flow falls at `order`. Drawing noise: the moments become exact."""
        sampler, schedule = self.build(), toys.schedules()[name]
        times = [
            gaussian.log_snr_times(schedule, n) if self.spacing == "log_snr" else self.times(schedule, n)
            for n in (64, 128)
        ]
        coarse, fine = self._errors(sampler, schedule, times)
        measured = math.log2(coarse / fine) if fine > 0 else math.inf
        assert fine < 0.1, f"after 128 steps on {name} the result is still off by {fine:.3g}"
        assert measured >= self.order - 0.25 or fine < 1e-6, (
            f"order of convergence on {name} is {measured:.2f}, not {self.order:g} "
            f"(error {coarse:.3g} in 64 steps, {fine:.3g} in 128)"
        )

    @pytest.mark.parametrize("name", ["cosine", "flow"])
    @Rule(
        Sampler.sample,
        "x (B, C, *s) at times[0] -> x at times[-1]",
        "step from each time to the next, the last pair included, and return x, not x0",
    )
    def test_ends_at_the_last_time(self, name: str) -> None:
        """Times that end above 0 lead to that level, not to data."""
        sampler, schedule = self.build(), toys.schedules()[name]
        (fine,) = self._errors(sampler, schedule, [self.times(schedule, 128, end=0.4)])
        assert fine < 0.05, f"times ending at 0.4 t_max: x is off by {fine:.3g} from that level's distribution"

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @Rule(
        Sampler.sample,
        "in x's shape and dtype",
        "turn float64 coefficients into Python's numbers, or cast the result to x's dtype",
    )
    def test_is_finite_everywhere(self, name: str) -> None:
        """Few steps or many, on every schedule, rectified flow with alpha(t_max) = 0 among them: finite, x's kind."""
        sampler, schedule = self.build(), toys.schedules()[name]
        for steps in (1, 2, 5, 30):
            x = batches.normal([0, 1], _SHAPE) * (schedule.t_max if name == "ve" else 1.0)
            times = self.times(schedule, steps)
            with _dividing(f"{steps} steps on {name}"):
                out = sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1, 2]))
            assert out.shape == x.shape and out.dtype == x.dtype, (
                f"x {x.dtype} {tuple(x.shape)} became {out.dtype} {tuple(out.shape)}"
            )
            with _DIVIDES.held() if name == "flow" else nullcontext():
                assert bool(out.isfinite().all()), f"{steps} steps on {name} are not finite"

    @Rule(Sampler.sample, "wants t (B,), at levels from times[0]", "call denoise at times of the run, or between them")
    def test_evaluates_within_the_times(self) -> None:
        """The denoiser is asked only at levels from times[0] down to times[-1]."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        exact, asked = self.denoise(schedule), []

        def spy(x: Tensor, t: Tensor) -> Estimate:
            asked.extend(t.tolist())
            return exact(x, t)

        times = self.times(schedule, 6, end=0.2)
        sampler.sample(spy, batches.normal([0], _SHAPE), times, schedule, streams=Streams([1]))
        assert asked, "the denoiser was never asked"
        assert min(asked) >= float(times[-1]) - 1e-9 and max(asked) <= float(times[0]) + 1e-9, (
            f"asked between {min(asked):.4g} and {max(asked):.4g}, times go from {times[0]:.4g} to {times[-1]:.4g}"
        )

    @_STREAMS
    def test_noise_comes_from_the_streams(self) -> None:
        """A sampler with noise repeats under equal streams and differs under others; one without noise ignores them."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        x, times = batches.normal([0, 1], _SHAPE), self.times(schedule, 6)

        def sample(seeds: Sequence[int] | None) -> Tensor:
            streams = Streams(seeds) if seeds else None
            return sampler.sample(self.denoise(schedule), x, times, schedule, streams=streams)

        assert same(sample([1, 2]), sample([1, 2])), "equal streams gave other samples"
        if self.draws_noise(sampler):
            must_raise(ValueError, lambda: sample(None), "a run without streams")
            other = sample([1, 3])
            assert not same(sample([1, 2]), other), "other streams gave the same samples"
            assert same(sample([1, 2])[:1], other[:1]), "row 0 changed with the stream of row 1"
        else:
            assert same(sample(None), sample([3, 4])), "the sampler draws noise when it is given streams"

    @Rule(Sampler, "its history is local to", "keep what a step remembers in local variables of sample")
    def test_keeps_no_history(self) -> None:
        """A second run from the same x is the same: a run's memory is local to it."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        x, times = batches.normal([0], _SHAPE), self.times(schedule, 5)
        first = sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1]))
        sampler.sample(self.denoise(schedule), x + 1, self.times(schedule, 3), schedule, streams=Streams([2]))
        again = sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1]))
        assert same(first, again), "a run depends on the run before it"

    @_ON_STEP
    def test_on_step_is_called_after_each_step(self) -> None:
        """on_step(index, t, x, x0): indices 0, 1, ...; t () the level that x has reached; the last x is the result."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        times, seen = self.times(schedule, 5), []
        x = batches.normal([0, 1], _SHAPE)

        def watch(index: int, t: Tensor, now: Tensor, x0: Tensor) -> None:
            seen.append((index, t, now.clone(), x0.shape))

        out = sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1, 2]), on_step=watch)
        assert [s[0] for s in seen] == list(range(5)), f"indices {[s[0] for s in seen]} for 5 steps"
        assert all(s[1].dim() == 0 for s in seen), "t of on_step is not a scalar tensor ()"
        levels = [float(s[1]) for s in seen]
        assert levels == pytest.approx(times[1:].tolist()), f"levels {levels}, times {times[1:].tolist()}"
        assert all(s[3] == x.shape for s in seen), "x0 of on_step has another shape than x"
        assert same(seen[-1][2], out), "the x of the last on_step is not the result"

    @_ON_STEP
    def test_on_step_replaces_x(self) -> None:
        """A tensor that on_step returns takes x's place."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        times, x = self.times(schedule, 4), batches.normal([0], _SHAPE)

        def sample(at: int) -> Tensor:
            def replace(index: int, t: Tensor, now: Tensor, x0: Tensor) -> Tensor | None:
                return torch.full_like(now, 3.0) if index == at else None

            return sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1]), on_step=replace)

        assert same(sample(3), torch.full_like(x, 3.0)), "a tensor returned after the last step is not the result"
        assert largest_difference(sample(0), sample(-1)) > 1e-3, "a tensor returned after the first step is ignored"

    @_ON_STEP
    def test_on_step_can_cancel(self) -> None:
        """An exception that on_step raises comes out, after no further step."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        calls = []

        class Cancelled(Exception):
            pass

        def stop(index: int, t: Tensor, now: Tensor, x0: Tensor) -> None:
            calls.append(index)
            if index == 1:
                raise Cancelled

        x, times = batches.normal([0], _SHAPE), self.times(schedule, 5)
        must_raise(
            Cancelled,
            lambda: sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1]), on_step=stop),
            "an on_step that raises to cancel the run",
        )
        assert calls == [0, 1], f"on_step went on after the exception: {calls}"

    @Rule(Sampler.sample, "The sampler passes gradients", "leave no_grad and inference_mode to the caller")
    def test_gradients_pass(self) -> None:
        """The sampler neither switches gradients off nor works in inference mode: that is the caller's."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        x = batches.normal([0], _SHAPE).requires_grad_()
        out = sampler.sample(self.denoise(schedule), x, self.times(schedule, 3), schedule, streams=Streams([1]))
        assert out.requires_grad, "the result has no gradient with respect to x"

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @_CONVERGES
    def test_data_of_one_point_is_exact(self, name: str) -> None:
        """Data of one point: the estimate of x0 never changes, so any number of steps is exact, with noise too.

        Deterministic: x is carried along the flow. Drawing noise: mean and standard deviation are those of the level.
        """
        if not self.exact_noise:
            pytest.skip("this sampler says that its noise is not exact")
        sampler, schedule = self.build(), toys.schedules()[name]
        point = gaussian.Gaussian(self.problem.mean, 0.0)
        for steps in (1, 2, 7):
            (error,) = self._errors(sampler, schedule, [self.times(schedule, steps, end=0.2)], point)
            assert error < 1e-9, f"{steps} steps on {name}, data of one point: x is off by {error:.3g}"

    def _errors(
        self,
        sampler: Any,
        schedule: NoiseSchedule,
        times: Sequence[Tensor],
        problem: gaussian.Gaussian | None = None,
    ) -> list[float]:
        problem, found = problem or self.problem, []
        for one in times:
            with _dividing(f"{len(one) - 1} steps from t = {float(one[0]):g}"):
                if self.draws_noise(sampler):
                    mean, std = gaussian.moments(sampler, schedule, one, problem)
                    exact = [float(v) for v in problem.marginal(schedule, one[-1])]
                    found.append(max(abs(mean - exact[0]), abs(std - exact[1])))
                else:
                    found.append(gaussian.flow_error(sampler, schedule, one, problem))
        return found
