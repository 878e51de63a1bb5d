"""Sampling at another precision: what is rounded, what is not, and that sampling stays what it was."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ldm_core.builtin.diffusion.config import EpsConfig, VPConfig
from ldm_core.builtin.diffusion.parameterizations import EpsParameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.values import Precision
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.model.precision import settle
from ldm_core.sampling.run import decoded
from ldm_core.testing.base import randomize

_CONFIG = UNetConfig(
    channels=16, channel_mult=(1, 2), res_blocks=1, attention=(1, 2), heads=2, norm_groups=8, transformer_depth=2
)


def _model() -> Model:
    site = Site(size=(8, 8), latent=LatentSpec(3, (1, 1)), cond=CondSpec(crossattn=12))
    torch.manual_seed(0)
    unet = UNet(_CONFIG, site)
    randomize(unet, 1)
    return Model(unet, VPSchedule(VPConfig()), EpsParameterization(EpsConfig())).eval().requires_grad_(False)


def _inputs() -> tuple[torch.Tensor, torch.Tensor, Cond]:
    generator = torch.Generator().manual_seed(2)
    x, tokens = torch.randn((2, 3, 8, 8), generator=generator), torch.randn((2, 5, 12), generator=generator)
    return x, torch.tensor([900.0, 40.0], dtype=torch.float64), Cond(crossattn=tokens)


@pytest.mark.parametrize("precision, most", [("fp32", 2e-5), ("bf16", 0.15)])
def test_settled_weights_give_the_same_estimate_to_rounding(precision: Precision, most: float) -> None:
    x, t, cond = _inputs()
    plain = _model().network(x, t, cond)
    model = _model()
    settle(model, precision)
    found = model.network(x, t, cond)
    assert found.dtype == torch.float32
    assert float((found - plain).abs().max()) <= most * float(plain.abs().max())
    if precision == "bf16":  # held in it, and not rounded anew: what autocast over float32 weights gives
        other = _model()
        other.precision = "bf16"
        other.denoiser.to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
        assert float((other.network(x, t, cond) - found).abs().max()) <= 0.02 * float(plain.abs().max())


def test_only_products_are_rounded() -> None:
    model = _model()
    settle(model, "bf16")
    for module in model.modules():
        kind = torch.bfloat16 if isinstance(module, nn.Linear | _ConvNd) else torch.float32
        assert all(p.dtype == kind for p in module.parameters(recurse=False))
    assert model.precision == "bf16"


def test_keys_and_values_are_computed_once_a_run() -> None:
    """Counted at the projections, and with the estimates of a plain call."""
    model = _model()
    x, t, cond = _inputs()
    calls = [0]
    blocks = [m.attn2 for n, m in model.named_modules() if n.rpartition(".")[0].endswith("transformer_blocks")]
    for block in blocks:
        block.to_k.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))  # type: ignore[union-attr]
    predict = make_predict(model)
    null = cond._replace(crossattn=torch.zeros_like(cond.crossattn))  # type: ignore[arg-type]
    for _ in range(3):
        found = predict(x, t, [null, cond])
    assert len(blocks) == 14 and calls[0] == len(blocks)
    for branch, estimate in zip([null, cond], found, strict=True):
        plain = model(x, t, branch).x0
        assert float((estimate.x0 - plain).abs().max()) <= 1e-5 * float(plain.abs().max())


def test_decoding_runs_in_the_precision_asked_for() -> None:
    seen: list[Any] = []

    class Stage:
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            seen.append(kind)
            return torch.full((1, 3, 4, 4), 0.5, dtype=torch.bfloat16 if kind == torch.bfloat16 else torch.float32)

    z = torch.zeros((1, 3, 2, 2))
    model, made = _model(), []
    for precision in get_args(Precision):
        model.precision = precision
        made.append(decoded(Stage().decode, z, model.runs_in("first_stage"))[0])
    assert seen == [torch.float32, torch.bfloat16, torch.float32]
    assert all(np.array_equal(m.numpy(), np.full((1, 3, 4, 4), 191, dtype=np.uint8)) for m in made)
