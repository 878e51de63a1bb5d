"""A part registered from a notebook, without a package: trained, loaded, sampled; unknown to another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from forked import Command, forked
from torch import nn

import ldm_core
from ldm_core import Catalog, Component, Conditioner, hookimpl
from ldm_core.contracts import Cond, ConditionerConfig, CondSpec, LatentSpec, Site
from ldm_core.errors import ComponentError, ConfigError

CELL = """
import attrs, sys, torch
import ldm_core
from ldm_core.contracts import Cond, CondSpec, ConditionerConfig, Site
from torch import nn

@attrs.frozen(kw_only=True)
class LightnessConfig(ConditionerConfig):
    width: int = 8
    reads = ("brightness",)
    def spec(self, latent):
        return CondSpec(vector=self.width)

class Lightness(ldm_core.Conditioner, nn.Module):
    'Steers by a number: how bright the picture is.'
    def __init__(self, config: LightnessConfig, site: Site):
        super().__init__()
        self.spec, self.reads = config.spec(site.latent), config.reads
        self.layer = nn.Linear(1, config.width)
    def encode(self, batch):
        value = torch.as_tensor(batch["brightness"], dtype=torch.float32, device=self.layer.weight.device)
        return Cond(vector=self.layer(value.reshape(-1, 1)))
    def null(self, cond):
        return Cond(vector=torch.zeros_like(cond.vector))

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, i):
        return {"image": torch.full((3, 16, 16), i / 12), "brightness": i / 12}

catalog = ldm_core.Catalog.discover()
catalog.register(Lightness)
"""
TRAIN = """
sys.path.insert(0, SUPPORT)
from training_runs import TINY
recipe = ldm_core.Recipe(TINY).changed("data.workers=1", conditioners=["lightness"], trainer={"steps": 2})
run = ldm_core.train(recipe, data=Data(), out=OUT, catalog=catalog)
pipeline = run.pipeline().with_settings({"sampler": "ddim"})
print(pipeline.sample(inputs={"brightness": 0.5}, steps=2)[0].image.shape)
catalog.register(Lightness)  # a cell that is run again
print(len(ldm_core.load(OUT, catalog=catalog).sample(inputs={"brightness": 0.5}, steps=1, images=2)))
"""


def test_a_class_of_a_cell_is_trained_loaded_and_sampled(tmp_path: Path) -> None:
    support = str(Path(__file__).parents[1] / "support")
    code = CELL + TRAIN.replace("SUPPORT", repr(support)).replace("OUT", repr(str(tmp_path / "run")))
    (done,) = forked([Command(["-c", code])])
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["(3, 16, 16)", "2"]
    with pytest.raises(ConfigError, match=r"no conditioner named 'lightness'.*registered in Python.*register it here"):
        ldm_core.load(str(tmp_path / "run"), device="cpu")
    assert ldm_core.Run.open(tmp_path / "run").finished, "its folder opens anywhere"


@attrs.frozen(kw_only=True)
class OneConfig(ConditionerConfig):
    """A conditioner's options."""

    reads = ("one",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """The widths."""
        return CondSpec(vector=2)


class OneOfMine(Conditioner, nn.Module):
    """Steers by nothing.

    And more lines.
    """

    def __init__(self, config: OneConfig, site: Site) -> None:
        super().__init__()
        self.spec, self.reads = config.spec(LatentSpec(3)), config.reads

    def encode(self, batch: Any, *, streams: Any = None) -> Cond:
        return Cond(vector=torch.zeros(len(batch["one"]), 2))

    def null(self, cond: Cond) -> Cond:
        return cond


def test_a_class_is_described_by_its_contract_and_its_constructor() -> None:
    catalog = Catalog.discover(kinds={"conditioner"})
    catalog.register(OneOfMine)
    catalog.register(OneOfMine, "another")
    component = catalog.get("conditioner", "one_of_mine")[0].component
    assert (component.kind, component.config, component.summary) == ("conditioner", OneConfig, "Steers by nothing.")
    assert isinstance(catalog.make("conditioner", "another"), OneOfMine)


def test_a_component_may_name_a_callable_where_it_is_registered_alone() -> None:
    said: dict[str, Any] = {"kind": "conditioner", "config": OneConfig, "factory": OneOfMine, "summary": "one"}
    catalog = Catalog.discover(kinds={"conditioner"})
    catalog.register(Component(name="mine", presets={"preset": OneConfig()}, **said))
    catalog.register(Component(name="mine", **{**said, "summary": "two"}))
    assert catalog.get("conditioner", "mine")[0].component.summary == "two"
    with pytest.raises(ComponentError, match="no conditioner named 'preset'"):
        catalog.get("conditioner", "preset")
    with pytest.raises(ComponentError, match="conditioner 'class_label' is taken by ldm-plugin-class-label"):
        catalog.register(Component(name="class_label", **said))
    with pytest.raises(ComponentError, match="name 'my part' is not an identifier"):
        catalog.register(Component(name="my part", **said))

    class Plugin:
        @hookimpl
        def ldm_components(self) -> list[Component]:
            return [Component(name="theirs", **said)]

    catalog.register(Plugin(), "theirs")
    assert "is no text 'package.module:callable'" in catalog.broken[-1].error


def test_what_is_no_part_says_what_one_needs() -> None:
    class Vague(Conditioner):
        def __init__(self) -> None: ...

    with pytest.raises(ComponentError, match="class Vague: its constructor names no attrs class of options; write"):
        Catalog().register(Vague)
    with pytest.raises(ComponentError, match="is no Component and no subclass of a contract"):
        Catalog().register(3)
