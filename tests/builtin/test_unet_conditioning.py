"""The U-Net's conditioning, sizes, precisions and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from ldm_core.builtin.unet.config import PRESETS, UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import CondSpec, Denoiser, LatentSpec, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.nn.embeddings import timestep_embedding

SMALL = UNetConfig(channels=16, channel_mult=(1, 2), res_blocks=1, attention=(2,), heads=2, norm_groups=8)
FULL = CondSpec(crossattn=6, vector=5, concat=2, residuals=("in.1", "skip.0", "mid"))


def site(cond: CondSpec | None = None, size: tuple[int, int] = (32, 48)) -> Site:
    return Site(size=size, latent=LatentSpec(channels=3, stride=(4, 4)), cond=cond or CondSpec())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def build(config: UNetConfig = SMALL, cond: CondSpec | None = None) -> UNet:
    """A U-Net whose zero-initialised layers are drawn too, so that every part shows in the output."""
    with seeded(0):
        unet = UNet(config, site(cond))
        for parameter in unet.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return unet.eval()


def bundle(batch: int = 2) -> Cond:
    with seeded(1):
        return Cond(
            crossattn=torch.randn(batch, 4, 6),
            vector=torch.randn(batch, 5),
            concat=torch.randn(batch, 2, 8, 12),
            residuals={
                "in.1": torch.randn(batch, 16, 8, 12),
                "skip.0": torch.randn(batch, 16, 8, 12),
                "mid": torch.randn(batch, 32, 4, 6),
            },
        )


def as_channels_last(unet: UNet) -> UNet:
    for parameter in unet.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return unet


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    with seeded(2):
        return torch.randn(batch, 3, 8, 12), torch.linspace(1, 900, batch)


def test_meets_the_contract() -> None:
    unet = build()
    assert isinstance(unet, Denoiser)
    x, level = inputs()
    assert unet(x, level, Cond()).shape == (2, 3, 8, 12)
    assert UNetConfig().accepts.crossattn and UNetConfig().accepts.extras == ()


def test_every_part_of_the_conditioning_changes_the_output() -> None:
    unet, cond = build(cond=FULL), bundle()
    x, level = inputs()
    reference = unet(x, level, cond)
    for name, value in cond.flat().items():
        changed = unet(x, level, cond.unflat({**cond.flat(), name: value + 1.0}))
        assert (changed - reference).abs().max() > 1e-3, name
    assert (unet(x, level + 5, cond) - reference).abs().max() > 1e-3


def test_a_residual_on_a_skip_reaches_less_than_one_on_the_input() -> None:
    """`in.0` goes on into the network and its skip; `skip.0` only into the last block."""
    unet = build()
    x, level = inputs()
    seen: list[Tensor] = []
    unet.middle_block.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    residual = torch.ones(2, 16, 8, 12)
    unet(x, level, Cond())
    unet(x, level, Cond(residuals={"skip.0": residual}))
    unet(x, level, Cond(residuals={"in.0": residual}))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_masked_tokens_do_not_matter() -> None:
    unet = build(cond=CondSpec(crossattn=6))
    x, level = inputs()
    tokens = torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    out = unet(x, level, Cond(crossattn=tokens, crossattn_mask=mask))
    other = torch.cat([tokens[:, :3], torch.full((2, 2, 6), 9.0)], dim=1)
    torch.testing.assert_close(unet(x, level, Cond(crossattn=other, crossattn_mask=mask)), out)
    torch.testing.assert_close(unet(x, level, Cond(crossattn=tokens[:, :3])), out, atol=1e-5, rtol=0)


def test_an_example_does_not_depend_on_its_batch_mates() -> None:
    unet, cond = build(cond=FULL), bundle(3)
    x, level = inputs(3)
    together = unet(x, level, cond)
    alone = unet(x[1:2], level[1:2], cond.map(lambda v: v[1:2]))
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter_with_and_without_checkpointing() -> None:
    x, level = inputs()
    gradients = []
    for recompute in (False, True):
        unet = build(attrs.evolve(SMALL, checkpoint=recompute), FULL).train()
        unet(x, level, bundle()).square().mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters()})
        assert all(g is not None and bool(g.any()) for g in gradients[-1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("cond", [None, FULL])
def test_bfloat16_and_channels_last(cond: CondSpec | None) -> None:
    unet, parts = build(cond=cond), bundle() if cond else Cond()
    x, level = inputs()
    reference = unet(x, level, parts)
    last = as_channels_last(unet)(x.to(memory_format=torch.channels_last), level, parts)
    torch.testing.assert_close(last, reference, atol=1e-5, rtol=0)
    assert last.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low = unet(x, level, parts)
    torch.testing.assert_close(low.float(), reference, atol=0.1, rtol=0.05)
    whole = unet.to(torch.bfloat16)(x, level, parts)  # weights in bfloat16, inputs as they come
    assert whole.dtype == torch.bfloat16
    torch.testing.assert_close(whole.float(), reference, atol=0.15, rtol=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"scale_shift_norm": True, "resblock_updown": True},
        {"new_attention_order": True},
        {"linear_projection": True, "transformer_depth": 2},
        {"head_channels": 8, "heads": 3},
        {"channel_mult": (1,), "attention": (1,)},
    ],
)
@pytest.mark.parametrize("crossattn", [0, 6])
def test_variants_run(change: dict[str, Any], crossattn: int) -> None:
    unet = build(attrs.evolve(SMALL, **change), CondSpec(crossattn=crossattn))
    cond = Cond(crossattn=torch.randn(2, 4, 6)) if crossattn else Cond()
    out = unet(*inputs(), cond)
    assert out.shape == (2, 3, 8, 12) and bool(out.isfinite().all())


def test_attention_orders_differ() -> None:
    orders = [build(attrs.evolve(SMALL, new_attention_order=new)) for new in (False, True)]
    first, second = (unet(*inputs(), Cond()) for unet in orders)
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (Cond(), "built for crossattn conditioning of width 6 and got 0"),
        (Cond(crossattn=torch.zeros(2, 4, 7)), "crossattn conditioning of width 6 and got 7"),
        (
            Cond(crossattn=torch.zeros(2, 4, 6), vector=torch.zeros(2, 3)),
            "vector conditioning of width 0 and got 3",
        ),
        (
            Cond(crossattn=torch.zeros(2, 4, 6), crossattn_mask=torch.ones(2, 3, dtype=torch.bool)),
            "crossattn_mask has 3 positions for 4 crossattn tokens",
        ),
        (
            Cond(crossattn=torch.zeros(2, 4, 6), residuals={"middle": torch.zeros(2, 32, 4, 6)}),
            "no residual site 'middle'",
        ),
    ],
)
def test_conditioning_that_it_was_not_built_for_is_refused(cond: Cond, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(cond=CondSpec(crossattn=6))(*inputs(), cond)


def test_an_odd_latent_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="latent size 7 is not divisible by the U-Net's factor 2"):
        build()(torch.zeros(1, 3, 8, 7), torch.zeros(1), Cond())


@pytest.mark.parametrize(
    ("config", "where", "expected"),
    [
        (UNetConfig(channels=100), site(), ["width 100 is not divisible by norm_groups 32"]),
        (UNetConfig(channels=96, heads=7), site(), ["attention width 192 is not divisible by heads 7"] * 1),
        (UNetConfig(head_channels=48), site(), ["attention width 256 is not divisible by head_channels 48"]),
        (
            UNetConfig(channel_mult=(1, 2, 2, 2)),
            site(size=(32, 40)),
            ["latent size 10 is not divisible by 8 (4 levels); use 2 levels", "image size divisible by 32"],
        ),
        (UNetConfig(channel_mult=()), site(), ["one of each is needed"]),
        (UNetConfig(), site(CondSpec(residuals=("middle",))), ["no residual site 'middle'"]),
        (UNetConfig(), Site(size=(8, 32, 32), latent=LatentSpec(3, (1, 4, 4))), ["latents have 3 axes"]),
        (UNetConfig(), site(), []),
        (UNetConfig(), Site(size=(33, 32), latent=LatentSpec(3, (4, 4))), []),  # the first stage's misfit
    ],
)
def test_check_names_both_numbers_and_the_fix(config: UNetConfig, where: Site, expected: list[str]) -> None:
    lines = "\n".join(config.check(where))
    assert bool(lines) is bool(expected)
    for text in expected:
        assert text in lines


def test_a_misfit_is_refused_before_a_weight_is_made() -> None:
    with pytest.raises(ValueError, match="width 100 is not divisible by norm_groups 32"):
        UNet(UNetConfig(channels=100), site())
    with pytest.raises(ValueError, match=r"needs site\.latent"):
        UNet(UNetConfig(), Site(size=(32, 32)))


def test_sites_are_as_many_as_the_blocks() -> None:
    for config in (SMALL, UNetConfig(), UNetConfig(channel_mult=(1, 1, 1, 1), res_blocks=3)):
        with torch.device("meta"):
            unet = UNet(config, Site(size=(64, 64), latent=LatentSpec(channels=3, stride=(4, 4))))
        blocks = len(unet.input_blocks)
        assert len(config.sites) == 2 * blocks + 1
        assert f"in.{blocks - 1}" in config.sites and f"in.{blocks}" not in config.sites


def test_presets_round_trip_through_plain_values() -> None:
    for name, preset in PRESETS.items():
        assert structure(unstructure(preset), UNetConfig) == preset, name


def test_an_input_skip_is_a_linear_map_of_channels_made_of_the_noise_level() -> None:
    """Beside the network without it: a 1x1 convolution of x and what joins it, with kernels of its own an example."""
    unet = build(attrs.evolve(SMALL, input_skip=True), FULL)
    plain = UNet(SMALL, site(FULL)).eval()
    plain.load_state_dict({k: v for k, v in unet.state_dict().items() if not k.startswith("input_skip")})
    with seeded(3):
        x, levels, cond = torch.randn(2, 3, 8, 12), torch.tensor([3.0, 700.0]), bundle()
    with torch.no_grad():
        made = unet(x, levels, cond) - plain(x, levels, cond)
        assert cond.vector is not None and cond.concat is not None
        emb = unet.time_embed(timestep_embedding(levels, 16)) + unet.label_emb(cond.vector)
        kernels = unet.input_skip.weight(torch.nn.functional.silu(emb)).view(2, 3, 5, 1, 1)
        given = torch.cat([x, cond.concat], 1)
        want = torch.cat([torch.nn.functional.conv2d(given[i : i + 1], kernels[i]) for i in range(2)])
    torch.testing.assert_close(made, want, rtol=1e-4, atol=1e-4)
    fresh = UNet(attrs.evolve(SMALL, input_skip=True), site(FULL))
    assert not fresh.input_skip.weight.weight.any() and not fresh.input_skip.weight.bias.any()
