"""The conformance suite of parameterizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ldm_core.contracts import Parameterization, ParameterizationConfig, configs
from ldm_core.testing import batches, toys
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import TensorSuite


class ParameterizationSuite(TensorSuite):
    """Subclass it, set `component`; one of another name than eps, x0, v, flow says with :meth:`target` what F is."""

    kind = "parameterization"
    protocol: ClassVar[type] = Parameterization

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Tensor]:
        """alpha and sigma (B,), float64, of points on the circle."""
        angle = batches.uniform(rows, (), "angle").double() * 1.4 + 0.05
        return {"alpha": angle.cos(), "sigma": angle.sin()}

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """The three coefficients."""
        names = ("c_skip", "c_out", "c_in")
        return dict(zip(names, component.coefficients(inputs["alpha"], inputs["sigma"]), strict=True))

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """F of a perfect network for x = alpha x0 + sigma eps; all arguments of one shape."""
        n = torch.rsqrt(alpha**2 + sigma**2)
        known = {"eps": eps, "x0": x0, "v": n * (alpha * eps - sigma * x0), "flow": eps - x0}
        if self.component not in known:
            pytest.skip("what this one predicts is not known to the kit: extend target(x0, eps, alpha, sigma)")
        return known[self.component]

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @Rule(
        Parameterization.coefficients,
        "An exact F gives x0 back",
        "solve F = f(x0, eps) with x = alpha x0 + sigma eps for x0: c_skip stands before x, c_out before F",
    )
    def test_exact_output_gives_x0_back(self, name: str) -> None:
        """x0 = c_skip x + c_out F for the exact F, on VP, VE and flow schedules, near both ends."""
        schedule = toys.schedules()[name]
        t = torch.linspace(0, 0.97 * schedule.t_max, 41, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x0, eps = (batches.normal(range(41), (), tag).double() for tag in ("x0", "eps"))
        c_skip, c_out, _ = self.build().coefficients(alpha, sigma)
        back = c_skip * (alpha * x0 + sigma * eps) + c_out * self.target(x0, eps, alpha, sigma)
        assert float((back - x0).abs().max()) < 1e-9, f"x0 is off by {float((back - x0).abs().max()):.2g} on {name}"

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @Rule(
        Parameterization.coefficients,
        "to a variance of 2 or less",
        "take c_in = 1 / sqrt(alpha² + sigma²), or 1 where that is 1 about",
    )
    def test_input_has_a_bounded_scale(self, name: str) -> None:
        """c_in keeps the network's input of data of unit variance at a variance of 2 or less."""
        schedule = toys.schedules()[name]
        if self.component == "flow" and name == "ve":
            return  # rectified flow is defined on its own schedule; its c_in is 1
        t = torch.linspace(0, 0.97 * schedule.t_max, 41, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        c_in = self.build().coefficients(alpha, sigma)[2]
        variance = c_in**2 * (alpha**2 + sigma**2)
        assert float(variance.max()) <= 2.0, f"the input's variance reaches {float(variance.max()):.3g} on {name}"
        assert float(variance.min()) > 1e-3, f"the input's variance falls to {float(variance.min()):.3g} on {name}"

    @Rule(
        Parameterization.coefficients,
        "elementwise, in alpha's shape and dtype",
        "compute in the float64 of alpha and sigma, and give constants by torch.ones_like(alpha)",
    )
    def test_coefficients_keep_shape_and_precision(self) -> None:
        """Elementwise: in alpha's shape, in float64."""
        for shape in ((), (3,), (2, 3)):
            half = torch.full(shape, 0.5, dtype=torch.float64)
            for name, value in zip(("c_skip", "c_out", "c_in"), self.build().coefficients(half, half), strict=True):
                assert value.shape == half.shape, f"{name} has shape {tuple(value.shape)} for {shape}"
                assert value.dtype == torch.float64, f"{name} is {value.dtype}, not float64"

    @Rule(
        Parameterization.coefficients,
        "finite at alpha = 0",
        "divide by alpha nowhere, or set needs_terminal_alpha: ClassVar[bool] = True on the config",
    )
    def test_bears_alpha_0_as_its_config_says(self) -> None:
        """At alpha = 0 the coefficients are finite, unless the config's `needs_terminal_alpha` rules that out."""
        c = self.build().coefficients(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
        finite = all(bool(v.isfinite().all()) for v in c)
        needs = configs.of(ParameterizationConfig, self.config()).needs_terminal_alpha
        assert finite or needs, "not finite at alpha = 0; the config says so with needs_terminal_alpha = True"
        assert not (finite and needs), "finite at alpha = 0, yet needs_terminal_alpha is True"
