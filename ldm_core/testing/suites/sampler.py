"""The conformance suite of samplers: mostly the Gaussian problem, where everything is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from ldm_core.contracts import Denoise, Estimate, NoiseSchedule, Sampler
from ldm_core.contracts.streams import Streams
from ldm_core.testing import batches, gaussian, toys
from ldm_core.testing.base import TensorSuite, largest_difference, same
from ldm_core.testing.refusals import dividing, must_raise

_SHAPE = (3, 4, 4)
_DIVIDES = (
    "a sampler may divide by sigma(times[i]), i < last, never by alpha without saying so (contract Sampler.sample): "
    "alpha is 0 where rectified flow begins. Write the step in x0 and eps = (x - alpha x0) / sigma, or set "
    "divides_by_alpha = True in the suite"
)
_STREAMS = (
    "streams is required when noise is drawn (contract Sampler.sample): raise ValueError where it is None, before the "
    "first step"
)


class SamplerSuite(TensorSuite):
    """Subclass it, set `component`; `order` where a deterministic sampler claims more than 1.

    The order is measured on times that are graded towards data, from t_max to 0, or, with `spacing` ``log_snr``, where
    ln(sigma / alpha) is even: there methods that integrate in that variable show it. `divides_by_alpha` says openly
    that the sampler cannot begin where alpha is 0; rectified flow is then begun a little later. `exact_noise` False
    says that it draws more noise than a level has, as DDPM's larger variance does. Whether a sampler draws noise at
    all is seen by the kit.
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
        """The exact denoiser, which also checks how it is called."""
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
        """Whether the sampler asks for streams: then without them it raises ValueError, as the contract says."""
        schedule = toys.schedules()["cosine"]
        try:
            sampler.sample(self.denoise(schedule), batches.normal([0], _SHAPE), self.times(schedule, 3), schedule)
        except ValueError:
            return True
        except (AttributeError, TypeError) as error:
            if "NoneType" not in str(error):
                raise
            raise AssertionError(f"without streams it raises {type(error).__name__} ({error}); {_STREAMS}") from error
        return False

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
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
    def test_ends_at_the_last_time(self, name: str) -> None:
        """A run whose times end above 0 ends at that level, not at data."""
        sampler, schedule = self.build(), toys.schedules()[name]
        (fine,) = self._errors(sampler, schedule, [self.times(schedule, 128, end=0.4)])
        assert fine < 0.05, f"times ending at 0.4 t_max: x is off by {fine:.3g} from that level's distribution"

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    def test_is_finite_everywhere(self, name: str) -> None:
        """Few steps or many, on every schedule, rectified flow with alpha(t_max) = 0 among them: finite, x's kind."""
        sampler, schedule = self.build(), toys.schedules()[name]
        for steps in (1, 2, 5, 30):
            x = batches.normal([0, 1], _SHAPE) * (schedule.t_max if name == "ve" else 1.0)
            times = self.times(schedule, steps)
            with dividing(f"{steps} steps on {name}", _DIVIDES):
                out = sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1, 2]))
            assert out.shape == x.shape and out.dtype == x.dtype, (
                f"x {x.dtype} {tuple(x.shape)} became {out.dtype} {tuple(out.shape)}; the result is x at times[-1], in "
                "x's shape and type: turn float64 coefficients into Python numbers, or cast the result"
            )
            at_0 = name == "flow" and not self.divides_by_alpha
            assert bool(out.isfinite().all()), f"{steps} steps on {name} are not finite" + (
                f"; {_DIVIDES}" if at_0 else ""
            )

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

    def test_noise_comes_from_the_streams(self) -> None:
        """A sampler that draws repeats under equal streams and differs under others; one that does not ignores them."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        x, times = batches.normal([0, 1], _SHAPE), self.times(schedule, 6)

        def sample(seeds: Sequence[int] | None) -> Tensor:
            streams = Streams(seeds) if seeds else None
            return sampler.sample(self.denoise(schedule), x, times, schedule, streams=streams)

        assert same(sample([1, 2]), sample([1, 2])), "equal streams gave other samples"
        if self.draws_noise(sampler):
            must_raise(ValueError, lambda: sample(None), "a run without streams", _STREAMS)
            other = sample([1, 3])
            assert not same(sample([1, 2]), other), "other streams gave the same samples"
            assert same(sample([1, 2])[:1], other[:1]), "row 0 changed with the stream of row 1"
        else:
            assert same(sample(None), sample([3, 4])), "the sampler draws noise when it is given streams"

    def test_keeps_no_history(self) -> None:
        """A second run from the same x is the same: what a run remembers is local to it."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        x, times = batches.normal([0], _SHAPE), self.times(schedule, 5)
        first = sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1]))
        sampler.sample(self.denoise(schedule), x + 1, self.times(schedule, 3), schedule, streams=Streams([2]))
        again = sampler.sample(self.denoise(schedule), x, times, schedule, streams=Streams([1]))
        assert same(first, again), "a run depends on the run before it"

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

    def test_on_step_can_cancel(self) -> None:
        """What on_step raises comes out, after no further step."""
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
            "on_step is called after each step, and what it raises comes out (contract OnStep: raise to cancel): call "
            "it, and catch nothing around it",
        )
        assert calls == [0, 1], f"on_step went on after the exception: {calls}"

    def test_gradients_pass(self) -> None:
        """The sampler neither switches gradients off nor works in inference mode: that is the caller's."""
        sampler, schedule = self.build(), toys.schedules()["cosine"]
        x = batches.normal([0], _SHAPE).requires_grad_()
        out = sampler.sample(self.denoise(schedule), x, self.times(schedule, 3), schedule, streams=Streams([1]))
        assert out.requires_grad, "the result has no gradient with respect to x"

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    def test_data_of_one_point_is_exact(self, name: str) -> None:
        """Where all data are one point, the estimate of x0 never changes: any number of steps is exact, with noise too.

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
            with dividing(f"{len(one) - 1} steps from t = {float(one[0]):g}", _DIVIDES):
                if self.draws_noise(sampler):
                    mean, std = gaussian.moments(sampler, schedule, one, problem)
                    exact = [float(v) for v in problem.marginal(schedule, one[-1])]
                    found.append(max(abs(mean - exact[0]), abs(std - exact[1])))
                else:
                    found.append(gaussian.flow_error(sampler, schedule, one, problem))
        return found
