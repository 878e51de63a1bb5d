"""The conformance suite of noise schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, PartAnswers, ScheduleAnswers, ScheduleConfig, configs, draw_times
from ldm_core.testing import batches
from ldm_core.testing.base import same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import TensorSuite
from ldm_core.testing.toys import SIZES


class ScheduleSuite(TensorSuite):
    """Subclass it, set `component`. A schedule with a `draw` of whole numbers only is a table.

    `preserves_variance` True claims that alpha² + sigma² is 1, and has it tested.
    """

    kind = "schedule"
    protocol: ClassVar[type] = NoiseSchedule
    preserves_variance: ClassVar[bool] = False

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Tensor]:
        """Uniform numbers (B,)."""
        return {"u": batches.uniform(rows, (), "u").double()}

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """Training times, and everything at them."""
        t = component.draw(inputs["u"])
        return {
            "t": t,
            "alpha": component.alpha(t),
            "sigma": component.sigma(t),
            "noise_level": component.noise_level(t),
        }

    def grid(self, schedule: Any) -> Tensor:
        """Times from 0 to t_max, float64: the whole table, or 1001 even ones."""
        count = int(schedule.t_max) if self.is_table(schedule) else 1000
        return torch.linspace(0, schedule.t_max, count + 1, dtype=torch.float64)

    def is_table(self, schedule: Any) -> bool:
        """True where all training times are whole numbers."""
        t = schedule.draw(torch.linspace(0, 0.999, 57, dtype=torch.float64))
        return bool((t == t.round()).all()) and schedule.t_max >= 2

    @Rule(
        NoiseSchedule,
        "alpha(0) = 1, sigma(0) = 0",
        "let t = 0 be data without noise, and t_max the level with most noise",
    )
    def test_boundary_values(self) -> None:
        """t = 0 is data: alpha 1, sigma 0; at t_max there is noise, and alpha may be 0 but not negative."""
        schedule = self.build()
        assert isinstance(schedule.t_max, int | float) and schedule.t_max > 0, f"t_max is {schedule.t_max!r}"
        zero = torch.zeros(1, dtype=torch.float64)
        assert float(schedule.alpha(zero)) == 1.0, f"alpha(0) is {float(schedule.alpha(zero))}, not 1"
        assert float(schedule.sigma(zero)) == 0.0, f"sigma(0) is {float(schedule.sigma(zero))}, not 0"
        end = torch.full((1,), float(schedule.t_max), dtype=torch.float64)
        assert float(schedule.alpha(end)) >= 0.0, "alpha(t_max) is negative"
        assert float(schedule.sigma(end)) > 0.0, "sigma(t_max) is 0"

    @Rule(
        NoiseSchedule,
        "sigma / alpha increases",
        "let sigma / alpha grow with t, for every t in [0, t_max], whole or not",
    )
    def test_noise_increases(self) -> None:
        """sigma / alpha strictly increases, and all is finite."""
        schedule = self.build()
        t = self.grid(schedule)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        assert bool(alpha.isfinite().all()) and bool(sigma.isfinite().all()), "coefficients are not finite"
        assert bool((alpha >= 0).all()) and bool((sigma >= 0).all()), "a coefficient is negative"
        angle = torch.atan2(sigma, alpha)  # grows with sigma / alpha, and bears alpha = 0
        assert bool((angle.diff() > 0).all()), (
            f"sigma / alpha does not increase at t = {float(t[1:][angle.diff() <= 0][0])}"
        )

    @Rule(
        NoiseSchedule,
        "at whole times and between them",
        "let sigma / alpha grow with t, for every t in [0, t_max], whole or not",
    )
    def test_between_whole_times_noise_increases_too(self) -> None:
        """Samplers evaluate anywhere: between the whole times of a table as well."""
        schedule = self.build()
        t = torch.linspace(0, schedule.t_max, 777, dtype=torch.float64)
        angle = torch.atan2(schedule.sigma(t), schedule.alpha(t))
        assert bool(angle.isfinite().all()) and bool((angle.diff() > 0).all()), "sigma / alpha does not increase"

    @Rule(NoiseSchedule, "Coefficients are float64", "begin with t.double(), and keep the shape of t")
    def test_coefficients_are_float64_in_the_shape_of_t(self) -> None:
        """Double precision, whatever t is, in t's shape."""
        schedule = self.build()
        for dtype in (torch.float32, torch.float64):
            for shape in ((), (3,), (2, 3)):
                t = torch.full(shape, float(schedule.t_max), dtype=dtype)
                for name in ("alpha", "sigma", "noise_level"):
                    value = getattr(schedule, name)(t)
                    assert value.shape == t.shape, f"{name} has shape {tuple(value.shape)} for t {shape}"
                    assert name == "noise_level" or value.dtype == torch.float64, f"{name} is {value.dtype}"

    @Rule(
        NoiseSchedule.draw,
        "training times in (0, t_max]",
        "map u = 0 to t_max or to the first level, never to 0; a table gives floor(u T) + 1",
    )
    def test_drawn_times(self) -> None:
        """draw: uniform u in [0, 1) to (0, t_max], in u's shape; of a table, every entry and nothing between."""
        schedule = self.build()
        u = torch.linspace(0, 1, 4097, dtype=torch.float64)[:-1]
        t = schedule.draw(u)
        assert t.shape == u.shape, f"draw gave shape {tuple(t.shape)} for {tuple(u.shape)}"
        assert bool((t > 0).all()) and bool((t <= schedule.t_max).all()), (
            f"times between {float(t.min())} and {float(t.max())}, allowed: (0, {schedule.t_max}]"
        )
        steps = t.diff()
        assert bool((steps >= 0).all()) or bool((steps <= 0).all()), "draw is not monotone in u"
        if self.is_table(schedule):
            count = int(schedule.t_max)
            u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
            whole = torch.arange(1, count + 1, dtype=torch.float64)
            assert same(schedule.draw(u).double().sort().values, whole), f"draw does not give each of 1..{count}"

    @Rule(
        NoiseSchedule.draw,
        "Every shape gives times as above",
        "keep the config as self.config; for every shape map [0, 1) monotonically into (0, t_max], a table's u to all "
        "of its whole numbers",
    )
    def test_drawn_times_of_every_size(self) -> None:
        """A schedule whose config answers `by_size` draws fitting times for small and large latents, and for none."""
        schedule = self.build()
        if not configs.of(ScheduleConfig, self.config()).by_size:
            pytest.skip("its config does not ask for the size")
        kept = configs.of(PartAnswers, schedule).config
        assert configs.of(ScheduleConfig, kept).by_size, "the schedule does not keep its config: callers cannot know"
        u = torch.linspace(0, 1, 4097, dtype=torch.float64)[:-1]
        for size in (None, *SIZES):
            shape = None if size is None else (self.latent.channels, *size)
            t = draw_times(schedule, u, shape)
            assert t.shape == u.shape, f"draw gave shape {tuple(t.shape)} for {tuple(u.shape)} and latents {size}"
            within = bool((t > 0).all()) and bool((t <= schedule.t_max).all())
            assert within, f"latents {size}: times between {float(t.min())} and {float(t.max())}"
            steps = t.diff()
            monotone = bool((steps >= 0).all()) or bool((steps <= 0).all())
            assert monotone, f"draw is not monotone in u for latents {size}"
            assert same(draw_times(schedule, u, shape), t), f"an equal draw for latents {size} gives other times"

    @Rule(
        NoiseSchedule,
        "by the attribute `table_steps`",
        "give schedule and config table_steps = t_max where draw gives whole numbers, and None or nothing elsewhere",
    )
    def test_a_table_says_its_length(self) -> None:
        """A table has `table_steps` equal to t_max, on the schedule and on its config; others have None, or nothing."""
        schedule, config = self.build(), self.config()
        expected = int(schedule.t_max) if self.is_table(schedule) else None
        of_config = configs.of(ScheduleConfig, config).table_steps
        for owner, said in ((schedule, configs.of(ScheduleAnswers, schedule).table_steps), (config, of_config)):
            assert said == expected, f"table_steps of {type(owner).__name__} is {said}, not {expected}"

    @Rule(
        NoiseSchedule,
        "calls itself variance preserving",
        "make sigma of alpha, sqrt(1 - alpha²), or do not claim preserves_variance in the suite",
    )
    def test_variance_is_preserved_where_that_is_claimed(self) -> None:
        """With `preserves_variance`, alpha² + sigma² is 1 at every level."""
        if not self.preserves_variance:
            return
        schedule = self.build()
        t = self.grid(schedule)
        far = float((schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 - 1).abs().max())
        assert far < 1e-9, f"alpha² + sigma² is off 1 by {far:.2g}"

    @Rule(
        NoiseSchedule.noise_level,
        "strictly monotone in t",
        "tell the network another number at each level, of a table the whole index",
    )
    def test_noise_level(self) -> None:
        """The network is told finite, monotone numbers; of a table, an exact whole number at each entry."""
        schedule = self.build()
        t = self.grid(schedule)[1:]
        level = schedule.noise_level(t)
        assert bool(level.isfinite().all()), "noise_level is not finite"
        steps = level.double().diff()
        assert bool((steps > 0).all()) or bool((steps < 0).all()), "noise_level is not strictly monotone"
        if self.is_table(schedule):
            assert bool((level == level.round()).all()), "noise_level of a table is not a whole number at whole t"
