"""Optional answers: the same from a class that derives from the core's and from one that derives from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import attrs
import pytest
from torch import nn

from ldm_core.catalog import Catalog
from ldm_core.catalog.component import KINDS
from ldm_core.config.structure import digest, structure, unstructure
from ldm_core.contracts import (
    Accepts,
    Conditioner,
    ConditionerAnswers,
    ConditionerConfig,
    DatasetAnswers,
    DenoiserConfig,
    GuidanceConfig,
    SamplerConfig,
    configs,
)
from ldm_core.contracts.answers import ANSWERS


@attrs.frozen(kw_only=True)
class Derived(GuidanceConfig):
    """Answers by a field, a property and a constant."""

    scale: float = 2.0
    fixed_size: ClassVar[bool] = True

    @property
    def needs_null(self) -> bool:
        """True where there is something to compare."""
        return self.scale != 1.0


@attrs.frozen(kw_only=True)
class Plain:
    """The same, derived from nothing."""

    scale: float = 2.0
    fixed_size: ClassVar[bool] = True

    @property
    def needs_null(self) -> bool:
        """True where there is something to compare."""
        return self.scale != 1.0


@attrs.frozen(slots=False)
class Loose(GuidanceConfig):
    """A class without slots, whose fields lie in the instance."""

    scale: float = 3.0


@pytest.mark.parametrize("made", [Derived, Plain])
def test_both_forms_give_the_same_answers_and_the_same_stored_values(made: Any) -> None:
    answers = configs.of(GuidanceConfig, made(scale=1.0))
    assert (answers.scale, answers.needs_null, answers.fixed_size) == (1.0, False, True)
    assert configs.of(GuidanceConfig, made()).needs_null is True
    assert answers.conditioners == () and answers.accepts is None and list(answers.check(None)) == []  # type: ignore[arg-type]
    assert [f.name for f in attrs.fields(made)] == ["scale"]
    assert digest(unstructure(made())) == digest({"scale": 2.0})
    assert structure({"scale": 4}, made, "").scale == 4.0
    assert configs.of(GuidanceConfig, made).fixed_size is True  # asked of the class


def test_an_instance_that_derives_is_handed_back_as_it_is() -> None:
    config = Derived()
    assert configs.of(GuidanceConfig, config) is config
    assert configs.of(GuidanceConfig, Loose(5.0)).scale == 5.0
    assert hash(Derived()) == hash(Derived()) and Derived() == Derived()


def test_nothing_at_all_has_every_default() -> None:
    assert configs.of(SamplerConfig, None).quantizes is False
    assert configs.of(DenoiserConfig, SimpleNamespace()).accepts == Accepts()
    assert configs.of(DatasetAnswers, [1]).describe() == ""
    assert configs.of(ConditionerConfig, Plain).trained_by_default is True


def test_a_module_answers_by_attributes_methods_and_instance_attributes() -> None:
    class Part(ConditionerAnswers, nn.Module):
        class_tables: Mapping[str, tuple[str, int]]

        def __init__(self) -> None:
            super().__init__()
            self.class_tables = {"table": ("label", 0)}

        def fit(self, examples: Any) -> None:
            pass

    answers = configs.of(ConditionerAnswers, Part())
    assert answers.class_tables == {"table": ("label", 0)} and answers.fit is not None and answers.known is None


def test_the_error_of_a_broken_property_is_not_taken_for_a_missing_one() -> None:
    class Broken:
        @property
        def needs_null(self) -> bool:
            return self.nothing  # type: ignore[attr-defined,no-any-return]

    with pytest.raises(AttributeError, match="nothing"):
        _ = configs.of(GuidanceConfig, Broken()).needs_null


def test_required_names_say_what_they_are() -> None:
    with pytest.raises(AttributeError, match="property `reads`"):
        _ = configs.of(ConditionerConfig, Plain()).reads


def test_near_misses_are_found_and_settings_are_not() -> None:
    class Slip:
        need_null = True
        scales = 1
        scale = 2

    assert list(configs.misspelt(GuidanceConfig, Slip)) == [("need_null", "needs_null")]


def test_every_kind_has_a_class_and_no_installed_config_misspells_a_name() -> None:
    assert set(configs.CONFIGS) <= set(KINDS) and set(ANSWERS) <= set(KINDS)
    catalog = Catalog.discover()
    for kind, contract in configs.CONFIGS.items():
        for name in catalog.names(kind):
            assert list(configs.misspelt(contract, catalog.get(kind, name)[0].component.config)) == [], name


def test_a_contract_hides_no_optional_name() -> None:
    assert not [n for n in vars(ConditionerAnswers) if not n.startswith("_") and hasattr(Conditioner, n)]
