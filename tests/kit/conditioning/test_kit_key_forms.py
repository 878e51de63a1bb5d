"""The forms of keys that a conditioner's config tells: true ones pass, and each mistake is found."""

from __future__ import annotations

import attrs
import numpy as np
from planted import Mistake, assert_found, faults_of, mistakes
from right_modules import Words, WordsConfig

from ldm_core.contracts import KeyForm
from ldm_core.testing import ConditionerSuite


def telling(**forms: KeyForm) -> type:
    """A config of words with forms of keys."""
    named = property(lambda _: forms)
    return attrs.frozen(kw_only=True)(type("Telling", (WordsConfig,), {"key_forms": named, "__doc__": "Tells."}))


def test_forms_of_keys_that_are_true_pass() -> None:
    told = telling(caption=KeyForm("a text of up to 8 words", "a red circle"))
    assert not faults_of(ConditionerSuite, Words, told)


@mistakes(
    Mistake(Words, "test_forms_are_of_keys_that_it_reads", "key_forms has text", telling(text=KeyForm("a text"))),
    Mistake(
        Words,
        "test_forms_have_words_and_a_geometry",
        "the geometry of 'caption' is 'map', expected: value",
        telling(caption=KeyForm(geometry="map")),
    ),
    Mistake(
        Words, "test_forms_have_words_and_a_geometry", "are not one line", telling(caption=KeyForm("a text\nof words"))
    ),
    Mistake(Words, "test_examples_can_be_encoded", "is no plain JSON", telling(caption=KeyForm("a text", np.zeros(2)))),
    Mistake(Words, "test_examples_can_be_encoded", "", telling(caption=KeyForm("a text", 3))),
)
def test_a_mistake_in_the_forms_of_keys_is_found(mistake: Mistake) -> None:
    assert_found(ConditionerSuite, mistake, WordsConfig)
