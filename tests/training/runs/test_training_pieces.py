"""The trainers' pieces against closed forms: order, schedule, average, statistics, settings of the engine."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from ldm_core.builtin.identity.config import IdentityConfig
from ldm_core.builtin.identity.stage import IdentityFirstStage
from ldm_core.config.structure import structure
from ldm_core.contracts import Site
from ldm_core.data.collate import collate
from ldm_core.errors import ConfigError
from ldm_core.recipe.settings import TrainerSettings
from ldm_core.training.averages.ema import EMA
from ldm_core.training.engine.world import World
from ldm_core.training.feed import loader as loading
from ldm_core.training.feed.order import Arrangement, Order, Place
from ldm_core.training.latents.statistics import fit_normalization
from ldm_core.training.learning_rate import learning_rate


def _world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


def _loader(world: World, *, accumulate: int = 1, steps: int = 6, length: int = 10, workers: int = 0) -> Any:
    return loading.Loader(
        lambda place: {"index": place.index, "epoch": place.epoch},
        length,
        {},
        images_per_step=4,
        accumulate=accumulate,
        steps=steps,
        world=world,
        seed=3,
        workers=workers,
    )


def _seen(loader: Any, start: int = 0) -> list[list[int]]:
    return [[int(i) for micro in micros for i in micro.batch["index"]] for micros in loader.steps(start)]


def test_every_epoch_sees_every_example_once() -> None:
    flat = [i for step in _seen(_loader(_world(), steps=10)) for i in step]  # 40 = 4 epochs of 10
    for epoch in range(4):
        assert sorted(flat[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert flat[:10] != flat[10:20]


def test_a_loader_starts_anywhere_without_the_past() -> None:
    assert _seen(_loader(_world()), start=4) == _seen(_loader(_world()))[4:]


def test_processes_and_accumulation_share_the_same_batches() -> None:
    whole = _seen(_loader(_world()))
    two = [_seen(_loader(_world(r, 2))) for r in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == whole
    assert _seen(_loader(_world(), accumulate=2)) == whole


def test_workers_give_what_no_workers_give() -> None:
    loader = loading.Loader(
        _Fetch(), 10, {}, images_per_step=4, accumulate=1, steps=3, world=_world(), seed=3, workers=2
    )
    assert _seen(loader) == _seen(_loader(_world(), steps=3))


class _Fetch:
    def __call__(self, place: Place) -> dict[str, int]:
        return {"index": place.index, "epoch": place.epoch}


def test_flips_are_fair_and_a_function_of_the_place() -> None:
    arranged = Arrangement(500, flip=True)
    order = Order(arranged, seed=1)
    places = [order.place(i) for i in range(2000)]
    share = sum(p.flip for p in places) / len(places)
    assert abs(share - 0.5) < 0.05
    again = Order(arranged, seed=1)
    assert [again.place(i) for i in reversed(range(2000))] == places[::-1]


def test_learning_rates_follow_their_closed_forms() -> None:
    settings = TrainerSettings(steps=110, warmup_steps=10, lr=2.0, schedule="cosine")
    assert learning_rate(settings, 0) == pytest.approx(0.2)
    assert learning_rate(settings, 9) == pytest.approx(2.0)
    assert learning_rate(settings, 10) == pytest.approx(2.0)
    assert learning_rate(settings, 60) == pytest.approx(1.0)
    assert learning_rate(settings, 35) == pytest.approx(1 + math.cos(math.pi / 4))
    line = attrs.evolve(settings, schedule="linear")
    assert learning_rate(line, 85) == pytest.approx(0.5)
    assert learning_rate(attrs.evolve(settings, schedule="constant"), 109) == 2.0


def test_ema_has_the_published_warm_up() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    ema = EMA(module, 0.9999)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema.update()  # decay 2/11 = .181818
    assert float(ema.shadow["weight"]) == pytest.approx(1 - 2 / 11, abs=1e-6)
    expected = 1 - 2 / 11
    for n in range(2, 11):
        ema.update()
        decay = (1 + n) / (10 + n)
        expected = decay * expected + 1 - decay
    assert float(ema.shadow["weight"]) == pytest.approx(expected, abs=1e-6)
    assert (1 + 10) / (10 + 10) == 0.55  # the reference's value at n = 10


def test_latent_statistics_equal_numpys() -> None:
    stage = IdentityFirstStage(IdentityConfig(), Site(size=(4, 6)))
    images = torch.randn(7, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.5]).view(
        1, 3, 1, 1
    )
    mean, std = fit_normalization(stage, [(images[:4], range(4)), (images[4:], range(4, 7))])
    pixels = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), pixels.mean(1), atol=1e-6)
    np.testing.assert_allclose(std.numpy(), pixels.std(1), atol=1e-6)
    z = stage.latents(stage.encode_moments(images)).transpose(0, 1).flatten(1)
    np.testing.assert_allclose(z.mean(1).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(1, correction=0).numpy(), 1, atol=1e-5)
    mean, one = fit_normalization(stage, [(images, range(7))], one_std=True)
    np.testing.assert_allclose(mean.numpy(), pixels.mean(1), atol=1e-6)
    np.testing.assert_allclose(one.numpy(), np.sqrt(pixels.var(1).mean()), atol=1e-6)
    assert one.shape == std.shape


def test_collate_stacks_what_is_equal_and_lists_the_rest() -> None:
    rows = [
        {
            "image": np.full((3, 2, 2), v, np.uint8),
            "caption": "a",
            "boxes": np.zeros((n, 4), np.float32),
            "class_label": n,
        }
        for v, n in ((0, 1), (255, 2))
    ]
    batch = collate(rows)
    assert batch["image"].shape == (2, 3, 2, 2) and batch["image"].dtype == torch.float32
    assert float(batch["image"][0].max()) == -1.0 and float(batch["image"][1].min()) == 1.0
    assert batch["caption"] == ["a", "a"]
    assert isinstance(batch["boxes"], list) and batch["boxes"][1].shape == (2, 4)
    assert batch["class_label"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "settings", [{"betas": [0.9, 1.0]}, {"betas": [-0.1, 0.9]}, {"joint_dropout": 1.5}, {"ema": 2.0}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{next(iter(settings))}: expected"):
        structure(settings, TrainerSettings, "trainer")
