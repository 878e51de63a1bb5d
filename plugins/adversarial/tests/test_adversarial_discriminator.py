"""The patch discriminator: published sizes, keys and receptive fields."""

from __future__ import annotations

import pytest
import torch
from ldm_plugin_adversarial.discriminator import PatchDiscriminator
from torch import nn


@pytest.mark.parametrize(("layers", "parameters", "side"), [(3, 2_765_633, 70), (2, 663_361, 34)])
def test_published_sizes(layers: int, parameters: int, side: int) -> None:
    model = PatchDiscriminator(layers=layers)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.receptive_field == side


@pytest.mark.parametrize(("layers", "map_size"), [(3, 30), (2, 62)])
def test_map_of_a_256_image(layers: int, map_size: int) -> None:
    with torch.device("meta"):
        model = PatchDiscriminator(layers=layers)
        assert model(torch.empty(1, 3, 256, 256)).shape == (1, 1, map_size, map_size)


def test_receptive_field_is_where_gradients_reach() -> None:
    model = PatchDiscriminator(width=4, layers=3).eval()
    x = torch.randn(1, 3, 128, 128, requires_grad=True)
    logits = model(x)
    logits[0, 0, 7, 7].backward()  # a patch that lies wholly inside
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == model.receptive_field == 70


def test_state_keys_are_the_published_ones() -> None:
    keys = set(PatchDiscriminator().state_dict())
    expected = {f"main.{i}.{p}" for i in (0, 11) for p in ("weight", "bias")}
    expected |= {f"main.{i}.weight" for i in (2, 5, 8)}
    buffers = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"main.{i}.{p}" for i in (3, 6, 9) for p in buffers}
    assert keys == expected


def test_group_norm_has_the_same_parameters_and_no_statistics() -> None:
    batch, group = PatchDiscriminator(norm="batch"), PatchDiscriminator(norm="group")
    assert [n for n, _ in batch.named_parameters()] == [n for n, _ in group.named_parameters()]
    assert not list(group.buffers())


def test_group_norm_judges_each_image_by_itself_and_batch_norm_does_not() -> None:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    group = PatchDiscriminator(width=8, norm="group")
    torch.testing.assert_close(group(x)[:2], group(x[:2]), rtol=1e-5, atol=1e-6)
    batch = PatchDiscriminator(width=8, norm="batch")
    assert (batch(x)[:2] - batch(x[:2])).abs().max() > 1e-3


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator()
    wide = model.main[8]
    assert isinstance(wide, nn.Conv2d)
    n = wide.weight.numel()
    assert wide.weight.std().item() == pytest.approx(0.02, rel=4 / (2 * n) ** 0.5)
    assert wide.weight.mean().item() == pytest.approx(0.0, abs=5 * 0.02 / n**0.5)
    norm = model.main[9]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.weight.mean().item() == pytest.approx(1.0, abs=5 * 0.02 / 512**0.5)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not norm.bias.any()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_smallest_image(layers: int) -> None:
    model = PatchDiscriminator(width=4, layers=layers, channels_in=1)
    size = model.min_size
    assert size == 3 * 2**layers
    assert model(torch.randn(2, 1, size, size)).shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match=rf"{size - 1} x {size}.*at least {size}"):
        model(torch.randn(2, 1, size - 1, size))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 layer"):
        PatchDiscriminator(layers=0)
    with pytest.raises(ValueError, match="'layer'"):
        PatchDiscriminator(norm="layer")  # type: ignore[arg-type]
