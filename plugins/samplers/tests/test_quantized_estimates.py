"""Estimates that are quantised with eps kept, as the published samplers do it, against those rules written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import Estimate
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.settings import with_settings

CATALOG = Catalog.discover()
TIMES = torch.tensor([901, 701, 402, 203, 4, 1], dtype=torch.float64)


def made(kind: str, use: str, **fields: Any) -> Any:
    component = CATALOG.get(kind, use)[0].component
    return component.load()(structure(fields, component.config, use), None)


SCHEDULE = made("schedule", "vp")
ALPHA, SIGMA = SCHEDULE.alpha(TIMES).tolist(), SCHEDULE.sigma(TIMES).tolist()


def network(x: Tensor, t: float) -> Tensor:
    """An eps that depends on both."""
    return torch.sin(1.3 * x + 0.01 * t) * 0.8


def project(x0: Tensor) -> Tensor:
    """In the place of a codebook: it has no ties."""
    return torch.tanh(2 * x0)


def estimate(x: Tensor, t: Tensor, *, with_project: bool = True) -> Estimate:
    alpha, sigma = float(SCHEDULE.alpha(t[:1])), float(SCHEDULE.sigma(t[:1]))
    x0 = ((x.double() - sigma * network(x.double(), float(t[0]))) / alpha).float()
    return Estimate(x0, project=project if with_project else None)


def published(x: Tensor, sampler: str, eta: float, streams: Streams) -> Tensor:
    """The published rules: of eps comes x0, that is quantised, and eps stays."""
    x = x.double()
    history: list[Tensor] = []
    for i in range(len(TIMES) - 1):
        a, s, a2, s2 = ALPHA[i], SIGMA[i], ALPHA[i + 1], SIGMA[i + 1]
        eps = network(x, float(TIMES[i]))

        def carried(e: Tensor, x: Tensor = x, a: float = a, s: float = s, a2: float = a2, s2: float = s2) -> Tensor:
            return a2 * project((x - s * e) / a) + s2 * e

        if sampler == "plms":
            history = [eps, *history[:3]]
            if i == 0:
                after = network(carried(eps), float(TIMES[1]))
                x = carried((eps + after) / 2)
            else:
                weights = [(3, -1), (23, -16, 5), (55, -59, 37, -9)][len(history) - 2]
                scale = [2, 12, 24][len(history) - 2]
                x = carried(sum((w * e for w, e in zip(weights, history, strict=True)), torch.zeros_like(x)) / scale)
            continue
        x0 = project((x - s * eps) / a)
        variance = (s2**2 / s**2) * (1 - (a / a2) ** 2)
        if sampler == "ddpm":  # the posterior's mean is of x and x0, and holds no eps
            mean = (a / a2 * s2**2 * x + a2 * (s**2 - (a / a2 * s2) ** 2) * x0) / s**2
            x = mean + variance**0.5 * streams.normal(x.shape).double()
        else:
            std = eta * variance**0.5
            x = a2 * x0 + (s2**2 - std**2) ** 0.5 * eps
            if std:
                x = x + std * streams.normal(x.shape).double()
    return x


@pytest.mark.parametrize(
    ("sampler", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("ddim", 0.4), ("plms", 0.0), ("ddpm", 0.0)]
)
def test_the_published_rules(sampler: str, eta: float) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    given = made("sampler", sampler, **({"eta": eta} if sampler == "ddim" else {}))
    cpu, seen = torch.device("cpu"), []

    def on_step(i: int, t: Tensor, z: Tensor, x0: Tensor) -> None:
        seen.append(x0)

    out = given.sample(estimate, x, TIMES, SCHEDULE, streams=Streams([1, 2], cpu), on_step=on_step)
    expected = published(x, sampler, eta, Streams([1, 2], cpu))
    assert (out.double() - expected).abs().max() < 3e-6 * expected.abs().max()
    assert all(float(x0.abs().max()) <= 1 for x0 in seen) and len(seen) == len(TIMES) - 1
    free = given.sample(
        lambda x, t: estimate(x, t, with_project=False), x, TIMES, SCHEDULE, streams=Streams([1, 2], cpu)
    )
    assert (free - out).abs().max() > 1e-2


BASE: dict[str, Any] = {"image_size": 16, "scale": "small", "first_stage": "vq_f4", "sampler": "ddim"}


@pytest.mark.parametrize("sampler", CATALOG.names("sampler"))
def test_samplers_that_take_no_noise_apart_say_so(sampler: str) -> None:
    recipe = resolve({**BASE, "sampler": sampler}, CATALOG)
    if sampler in ("ddim", "ddpm", "plms"):
        assert with_settings(recipe, ["sample.quantize_x0=true"], CATALOG).sample.quantize_x0
        return
    with pytest.raises(ConfigError, match=f"sampler '{sampler}' takes no noise apart.*use ddim, plms or ddpm"):
        with_settings(recipe, ["sample.quantize_x0=true"], CATALOG)


def test_one_rule_of_two() -> None:
    recipe = resolve(BASE, CATALOG)
    with pytest.raises(ConfigError, match=r"sample\.quantize_x0 and sample\.project_x0 are both set"):
        with_settings(recipe, ["sample.quantize_x0=true", "sample.project_x0=true"], CATALOG)
    older = recipe.plain()
    older["sample"] = {k: v for k, v in older["sample"].items() if k != "quantize_x0"}
    assert resolve(older, CATALOG).identity() == recipe.identity()
    assert with_settings(recipe, ["sample.quantize_x0=true"], CATALOG).identity() == recipe.identity()
