"""Configs and whole plugins: right ones pass, and each mistake fails its test with the contract's line and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
from planted import Empty, Mistake, assert_found, assert_told, faults_of, mistakes
from right_modules import Net, NetConfig, Stage, StageConfig, Words, WordsConfig

from ldm_core.contracts import Accepts
from ldm_core.testing import (
    ConditionerSuite,
    DenoiserSuite,
    FirstStageSuite,
    GuidanceSuite,
    ParameterizationSuite,
    PluginSuite,
    ScheduleSuite,
)
from ldm_core.testing.running import failures
from ldm_core.testing.toys import CosineSchedule, FlowParameterization

ROUND_TRIP = "test_config_is_frozen_and_round_trips"
NAMES = "test_optional_names_are_spelt_as_in_the_contract"


def flow(config: Any, site: Any) -> FlowParameterization:
    """A right parameterization of any config."""
    return FlowParameterization()


def schedule(config: Any, site: Any) -> CosineSchedule:
    """A right schedule of any config."""
    return CosineSchedule()


# ---------------------------------------------------------------------------------------------------- configs


def _one_more(value: float) -> float:
    return value + 1.0


@attrs.define(kw_only=True)
class Thawed:
    scale: float = 1.0


@attrs.frozen
class Positional:
    scale: float = 1.0


class Plain:
    """No attrs class."""

    scale = 1.0


@attrs.frozen(kw_only=True)
class GrowsEachTime:
    scale: float = attrs.field(default=1.0, converter=_one_more)


@attrs.frozen(kw_only=True)
class ForgetsAField:
    """A field that no plain value sets."""

    scale: float = 1.0
    count: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "count", id(self))


@attrs.frozen(kw_only=True)
class NamesAPlace:
    weights: str = ""


@mistakes(
    Mistake(flow, ROUND_TRIP, ("setting scale of a Thawed raises nothing", "@attrs.frozen(kw_only=True)"), Thawed),
    Mistake(flow, ROUND_TRIP, ("Positional takes scale by position", "kw_only=True"), Positional),
    Mistake(flow, ROUND_TRIP, "does not come back equal from its own YAML", GrowsEachTime),
    Mistake(flow, ROUND_TRIP, "does not come back equal from its own YAML", ForgetsAField),
    Mistake(flow, ROUND_TRIP, ("does not say whether weights names a path", '"place": True'), NamesAPlace),
)
def test_a_mistake_in_a_config_is_found(mistake: Mistake) -> None:
    assert_found(ParameterizationSuite, mistake, component="flow")
    others = set(faults_of(ParameterizationSuite, flow, mistake.config or Empty, component="flow"))
    assert others == {ROUND_TRIP}, "a wrong config is told once"


# ------------------------------------------------------------------------------------------------------ names


@attrs.frozen(kw_only=True)
class NeedNull:
    scale: float = 3.0
    need_null: bool = True


@attrs.frozen(kw_only=True)
class Acccepts:
    acccepts: Accepts = attrs.field(factory=Accepts)


@attrs.frozen(kw_only=True)
class Dropable(WordsConfig):
    dropable: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class TakesSizes(WordsConfig):
    def taken_size(self, size: Any, latent: Any) -> Mapping[str, Any]:
        return {}


class Truncates(Words):
    """Says what is cut off, to nobody."""

    def truncate(self, prompt: str) -> str:
        return prompt[20:]


class ClassTable(Words):
    def __init__(self, config: WordsConfig, site: Any) -> None:
        super().__init__(config, site)
        self.class_table = {"table.weight": ("class_label", 0)}


class Revives(Stage):
    def revives(self, latents: Any, dead: Any, *, seed: int) -> int:
        return 0


@attrs.frozen(kw_only=True)
class TableStep:
    table_step: int = 1000


class Prepares(Net):
    def recompute_block(self) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("suite", "make", "config", "words"),
    [
        (
            GuidanceSuite,
            flow,
            NeedNull,
            "NeedNull.need_null is read by nobody; GuidanceConfig.needs_null: True",
        ),
        (DenoiserSuite, Net, Acccepts, "Acccepts.acccepts is read by nobody; DenoiserConfig.accepts: "),
        (
            ConditionerSuite,
            Words,
            Dropable,
            "Dropable.dropable is read by nobody; ConditionerConfig.droppable: ",
        ),
        (ConditionerSuite, Words, TakesSizes, "TakesSizes.taken_size is read by nobody"),
        (
            ConditionerSuite,
            Truncates,
            WordsConfig,
            "Truncates.truncate is read by nobody; ConditionerAnswers.truncated: ",
        ),
        (ConditionerSuite, ClassTable, WordsConfig, "ClassTable.class_table is read by nobody"),
        (FirstStageSuite, Revives, StageConfig, "Revives.revives is read by nobody; FirstStageAnswers.revive: "),
        (ScheduleSuite, schedule, TableStep, "TableStep.table_step is read by nobody; ScheduleConfig.table_steps: "),
        (DenoiserSuite, Prepares, NetConfig, "Prepares.recompute_block is read by nobody"),
    ],
)
def test_a_misspelt_optional_name_is_found(suite: Any, make: Any, config: type, words: str) -> None:
    assert_found(suite, Mistake(make, NAMES, words, config))


# ----------------------------------------------------------------------------------------------------- plugins

PLUGIN = """
from __future__ import annotations
import attrs
{imports}
from ldm_core import Component, hookimpl

@attrs.frozen(kw_only=True)
class GoodConfig:
    scale: float = 1.0
    sizes: tuple[int, ...] = (1, 2)

@hookimpl
def ldm_components():
    {inside}
    return [Component(kind="parameterization", name="good", config=GoodConfig, factory={factory!r},
                      summary={summary!r}, presets={{"good_2": GoodConfig(scale=2.0, sizes=(3,))}}, api={api})]
"""


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({}, set()),
        ({"imports": "import torch"}, {"test_describing_imports_nothing_heavy"}),
        ({"inside": "import sentencepiece_stand_in"}, set()),
        ({"inside": "import matplotlib"}, {"test_describing_imports_nothing_heavy"}),
        ({"factory": "ldm_core.testing.toys:Missing"}, {"test_every_factory_imports"}),
        ({"summary": " "}, {"test_every_component_has_a_summary"}),
        ({"summary": "two\nlines"}, {"test_every_component_has_a_summary"}),
        ({"api": "99"}, {"test_meets_the_protocol", "test_builds_by_name"}),
    ],
    ids=["right", "heavy import", "light import", "heavy when asked", "factory", "blank", "two lines", "api"],
)
def test_plugins(
    change: dict[str, str], fails: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    parts = {
        "imports": "",
        "inside": "pass",
        "factory": "ldm_core.testing.toys:FlowParameterization",
        "summary": "a good one",
        "api": "1",
    }
    name = "ldm_kit_plugin_" + request.node.callspec.id.replace(" ", "_")
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(**{**parts, **change}))
    (tmp_path / "sentencepiece_stand_in.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = type("Mine", (PluginSuite,), {"module": name, "__module__": __name__})
    found = failures(mine)
    assert set(found) == fails, found
    for text in found.values():
        assert_told(text)


def test_a_distribution_that_is_not_installed_says_so() -> None:
    mine = type("Mine", (PluginSuite,), {"distribution": "ldm-plugin-nowhere", "__module__": __name__})
    assert "not installed" in failures(mine)["test_builds_by_name"]
