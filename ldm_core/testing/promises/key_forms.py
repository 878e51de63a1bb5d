"""The standard tests of the forms of keys that a conditioner's config tells people of."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch

from ldm_core.contracts import ConditionerConfig, KeyForm, configs
from ldm_core.data.collate import collate
from ldm_core.data.geometry import GEOMETRIES
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite

_KINDS = tuple(dict.fromkeys(GEOMETRIES.values()))


class KeyFormSuite(ModuleSuite):
    """Tests of `key_forms`; of a config without any they ask nothing."""

    @property
    def _forms(self) -> Mapping[str, KeyForm]:
        told: Mapping[str, KeyForm] = configs.of(ConditionerConfig, self.config()).key_forms
        return told

    @Rule(KeyForm, "and of no others", "name in key_forms only keys of reads, by the config's own names of them")
    def test_forms_are_of_keys_that_it_reads(self) -> None:
        """Each form is a KeyForm of a key in `reads`."""
        reads = set(self.config().reads)
        others = sorted(set(self._forms) - reads)
        assert not others, f"key_forms has {', '.join(others)}, and reads are {', '.join(sorted(reads))}"
        wrong = [key for key, form in self._forms.items() if not isinstance(form, KeyForm)]
        assert not wrong, f"key_forms of {', '.join(wrong)} is no KeyForm"

    @Rule(
        KeyForm,
        "as data sets say it",
        "say the geometry by which a data set moves the key with its pictures, and words of one line",
    )
    def test_forms_have_words_and_a_geometry(self) -> None:
        """Words are one line; the geometry is one that there is, and that of a known key."""
        for key, form in self._forms.items():
            assert isinstance(form.words, str), f"the words of '{key}' are {type(form.words).__name__}, not text"
            assert form.words.isprintable() or not form.words, f"the words of '{key}' are not one line"
            kinds = (GEOMETRIES[key],) if key in GEOMETRIES else _KINDS
            assert not form.geometry or form.geometry in kinds, (
                f"the geometry of '{key}' is '{form.geometry}', expected: {' or '.join(kinds)}"
            )

    @Rule(KeyForm, "an `example` of it as plain JSON", "give an example that encode takes, of plain numbers and text")
    def test_examples_can_be_encoded(self) -> None:
        """An example is plain JSON, and as a value of its key it is encoded."""
        given = {key: form.example for key, form in self._forms.items() if form.example is not None}
        for key, example in given.items():
            try:
                again = json.loads(json.dumps(example, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise AssertionError(f"the example of '{key}' is no plain JSON: {error}") from None
            assert again == example, f"the example of '{key}' is {again!r} as JSON, and not {example!r}"
        if not given:
            return
        conditioner, batch = self.build(), self.inputs([0], self.sizes[0])
        batch = {**batch, **collate([{key: _value(example) for key, example in given.items()}])}
        with torch.no_grad():
            cond = conditioner.encode(batch)
        assert cond.rows() == 1, f"one example each is encoded as {cond.rows()} rows"


def _value(example: object) -> object:
    """An example as the command line reads it: numbers in lists are arrays, others stay."""
    if not isinstance(example, list):
        return example
    array = np.asarray(example)
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float32) if array.dtype.kind in "iuf" else example
