"""The kit's suites of denoisers, adapters and data sets, put to the test.

For each, a right toy passes everything, and a toy with one fault fails the test that is there to find it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldm_core.contracts import EMPTY, Accepts, Adapter, CondSpec, Dataset, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.testing import AdapterSuite, DatasetSuite, DenoiserSuite, Suite, batches
from ldm_core.testing.running import catalog_of, failures
from ldm_core.testing.toys import ToyDenoiser


def faults_of(suite: type[Suite], make: Callable[..., Any], config: type, **attributes: Any) -> dict[str, str]:
    attributes.setdefault("catalog", catalog_of(suite.kind, "toy", config, make))
    return failures(type("Mine", (suite,), {"component": "toy", **attributes}))


# -------------------------------------------------------------------------------------------------- denoisers


@attrs.frozen(kw_only=True)
class NetConfig:
    @property
    def accepts(self) -> Accepts:
        return Accepts(residuals=False)


class Net(ToyDenoiser):
    def __init__(self, config: NetConfig, site: Site) -> None:
        assert site.latent is not None
        super().__init__(site.latent, site.cond)


class DeafToVector(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        vector = None if cond.vector is None else torch.zeros_like(cond.vector)
        return super().forward(x, noise_level, cond._replace(vector=vector))


class DeafToNoise(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, torch.ones_like(noise_level), cond)


class IgnoresMask(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level, cond._replace(crossattn_mask=None))


class Idle(Net):
    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.idle = nn.Linear(2, 2)


class Narrow(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level, cond)[:, :1]


class Square(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        out = super().forward(x, noise_level, cond)
        return out[..., : out.shape[2]]


class OneLevel(Net):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level[:1].expand(len(noise_level)), cond)


class WrongPrepare(Net):
    def prepare(self, cond: Cond) -> Cond:
        return cond.map(lambda v: 2 * v if v.is_floating_point() else v)


class RightPrepare(Net):
    def prepare(self, cond: Cond) -> Cond:
        return cond.map(torch.clone)


class Counting(nn.Module):
    """A block that does something else when it is run again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.runs = layer, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.layer(x * self.runs)


class Recomputed(Net):
    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.last = nn.Sequential(nn.Conv2d(self.mix.out_channels, self.mix.out_channels, 1), nn.Tanh())

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return self.last(super().forward(x, noise_level, cond))

    def recompute_blocks(self) -> list[nn.Module]:
        return [self.last]


class RecomputedCounting(Recomputed):
    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__(config, site)
        self.last.append(Counting(nn.Tanh()))


class MoreChannels(Net):
    """F, and a variance beside it: allowed."""

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        out = super().forward(x, noise_level, cond)
        return torch.cat([out, out.tanh()], 1)


@pytest.mark.parametrize(
    ("net", "test"),
    [
        (Net, None),
        (RightPrepare, None),
        (MoreChannels, None),
        (Recomputed, None),
        (RecomputedCounting, "test_recomputed_blocks_have_equal_gradients"),
        (DeafToVector, "test_every_conditioning_part_matters"),
        (DeafToNoise, "test_the_noise_level_matters"),
        (IgnoresMask, "test_masked_tokens_do_not_matter"),
        (Idle, "test_gradients_reach_every_parameter"),
        (Narrow, "test_output_shape"),
        (Square, "test_output_shape"),
        (OneLevel, "test_mixed_noise_levels_in_one_batch"),
        (OneLevel, "test_an_example_does_not_depend_on_its_batch"),
        (WrongPrepare, "test_prepare_changes_nothing"),
    ],
)
def test_denoisers(net: type, test: str | None) -> None:
    found = faults_of(DenoiserSuite, net, NetConfig)
    assert test in found if test else not found, found


def test_extras_of_a_denoiser_are_tried_too() -> None:
    class WithExtra(Net):
        def __init__(self, config: NetConfig, site: Site) -> None:
            super().__init__(config, site)
            self.from_t5 = nn.Linear(12, 4)

        def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
            return super().forward(x, noise_level, cond) + self.from_t5(cond.extras["t5"]).mean(1)[..., None, None]

    spec = CondSpec(crossattn=8, extras={"t5": (None, 12)})
    assert not faults_of(DenoiserSuite, WithExtra, NetConfig, cond_spec=spec)
    found = faults_of(DenoiserSuite, Net, NetConfig, cond_spec=spec)
    assert "'extras/t5'" in found["test_every_conditioning_part_matters"]


# --------------------------------------------------------------------------------------------------- adapters


@attrs.frozen(kw_only=True)
class LoRAConfig:
    rank: int = 2


class LoRA(Adapter, nn.Module):
    """A low-rank term beside the layer that mixes tokens in, added by a forward hook."""

    def __init__(self, config: LoRAConfig, site: Site) -> None:
        super().__init__()
        self.down = nn.Linear(site.cond.crossattn, config.rank, bias=False)
        self.up = nn.Linear(config.rank, 4, bias=False)
        nn.init.zeros_(self.up.weight)
        self.handles: list[Any] = []

    def attach(self, model: Any) -> None:
        target = model.denoiser.from_tokens
        self.handles.append(target.register_forward_hook(lambda m, args, out: out + self.up(self.down(args[0]))))

    def detach(self) -> None:
        while self.handles:
            self.handles.pop().remove()


class StaysAttached(LoRA):
    def detach(self) -> None:
        self.handles.clear()


class EditsWeights(LoRA):
    def attach(self, model: Any) -> None:
        self.target = [model.denoiser.from_tokens.weight]
        with torch.no_grad():
            self.target[0].add_(self.up.weight @ self.down.weight)

    def detach(self) -> None:
        with torch.no_grad():
            self.target[0].sub_(self.up.weight @ self.down.weight)


class RegistersItself(LoRA):
    def attach(self, model: Any) -> None:
        super().attach(model)
        model.denoiser.lora = self


class DoesNothing(LoRA):
    def attach(self, model: Any) -> None:
        pass


class Frozen(LoRA):
    def attach(self, model: Any) -> None:
        target = model.denoiser.from_tokens
        self.handles.append(
            target.register_forward_hook(lambda m, args, out: out + self.up(self.down(args[0])).detach())
        )


@attrs.frozen(kw_only=True)
class AdaptedConfig:
    channels: int = 4


def adapted(config: AdaptedConfig, site: Site) -> ToyDenoiser:
    assert site.latent is not None
    return ToyDenoiser(site.latent, site.cond)


@pytest.mark.parametrize(
    ("adapter", "test"),
    [
        (LoRA, None),
        (StaysAttached, "test_detaching_restores_bit_for_bit"),
        (EditsWeights, "test_attaching_keeps_keys_and_weights"),
        (RegistersItself, "test_attaching_keeps_keys_and_weights"),
        (DoesNothing, "test_attached_it_matters"),
        (Frozen, "test_training_reaches_every_parameter"),
    ],
)
def test_adapters(adapter: type, test: str | None) -> None:
    catalog = catalog_of("adapter", "toy", LoRAConfig, adapter)
    denoiser = catalog_of("denoiser", "toy_net", AdaptedConfig, adapted)
    catalog.register(denoiser.manager.get_plugins().pop(), "denoiser")
    attributes = {"catalog": catalog, "denoiser": "toy_net", "denoiser_settings": {}}
    found = faults_of(AdapterSuite, adapter, LoRAConfig, **attributes)
    assert test in found if test else not found, found


# -------------------------------------------------------------------------------------------------- data sets


@attrs.frozen(kw_only=True)
class DataConfig:
    seed: int = 0
    folder: str = attrs.field(default="", metadata={"place": True})


class Examples(Dataset):
    """The kit's own examples."""

    all_keys: Mapping[str, str] = batches.INFO.keys

    def __init__(self, config: DataConfig, site: Site, keys: Iterable[str] | None = None) -> None:
        self.config, self.site = config, site
        self.keys = {k: g for k, g in self.all_keys.items() if keys is None or k in set(keys)}
        self.classes = {k: n for k, n in batches.CLASSES.items() if k in self.keys}
        self.class_names: Mapping[str, tuple[str, ...]] = EMPTY

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index >= len(self):
            raise IndexError(index)
        example = batches.example(index + 100 * self.config.seed, self.site.size, self.site.channels)
        return {k: v for k, v in self.change(example).items() if k in self.keys}

    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return example

    def select(self, keys: Iterable[str]) -> Examples:
        return type(self)(self.config, self.site, keys)

    def fingerprint(self) -> str:
        return f"examples-{self.config}-{self.site.size}"


class Endless(Examples):
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return super().__getitem__(index % len(self))


class Augments(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "class_label": random.randrange(5)}


class FloatImages(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "image": example["image"].astype(np.float32) / 255}


class PixelBoxes(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "boxes": example["boxes"] * 32}


class LostLabels(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "box_labels": example["box_labels"][:-1]}


class CountsFromOne(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "class_label": example["class_label"] + 1}


class Undeclared(Examples):
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {**super().__getitem__(index), "secret": 1}


class NotPicklable(Examples):
    def __init__(self, config: DataConfig, site: Site, keys: Iterable[str] | None = None) -> None:
        super().__init__(config, site, keys)
        self.open = lambda: None


class SelectsAll(Examples):
    def select(self, keys: Iterable[str]) -> Examples:
        return self


class Fingerprint(Examples):
    def fingerprint(self) -> str:
        return f"{id(self)}"


class FingerprintOfNothing(Examples):
    def fingerprint(self) -> str:
        return "examples"


@pytest.mark.parametrize(
    ("data", "test"),
    [
        (Examples, None),
        (Endless, "test_ends_at_its_length"),
        (Augments, "test_the_same_index_gives_the_same_example"),
        (FloatImages, "test_values_have_their_geometry"),
        (PixelBoxes, "test_values_have_their_geometry"),
        (LostLabels, "test_values_have_their_geometry"),
        (CountsFromOne, "test_classes_count_what_occurs"),
        (Undeclared, "test_examples_hold_the_declared_keys"),
        (NotPicklable, "test_is_picklable"),
        (SelectsAll, "test_select_narrows"),
        (Fingerprint, "test_fingerprint_is_stable"),
        (FingerprintOfNothing, "test_fingerprint_tells_other_data"),
    ],
)
def test_data_sets(data: type, test: str | None) -> None:
    state = random.getstate()
    random.seed(5)
    try:
        found = faults_of(DatasetSuite, data, DataConfig, other_settings={"seed": 1})
    finally:
        random.setstate(state)
    assert test in found if test else not found, found


def test_a_data_set_of_files_gets_its_folder() -> None:
    class OfFiles(Examples):
        def __len__(self) -> int:
            return int((Path(self.config.folder) / "count.txt").read_text())

    def make_data(self: Any, folder: Path) -> dict[str, Any]:
        (folder / "count.txt").write_text("5")
        return {"folder": str(folder)}

    found = faults_of(DatasetSuite, OfFiles, DataConfig, make_data=make_data)
    assert set(found) == {"test_is_picklable"}  # a class inside a function has no address to unpickle from
