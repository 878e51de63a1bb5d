"""The standard tests of a conditioner that draws noise; with :class:`~ldm_core.testing.ConditionerSuite`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ldm_core.contracts import Conditioner, ConditionerConfig, configs
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.model.conformance.bundle import bundle_problems, null_problems
from ldm_core.testing.base import generators, randomize, same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite
from ldm_core.testing.toys import seeds

_DRAWS = Rule(
    Conditioner.encode,
    "row i from stream i alone",
    "draw by streams.normal(shape) or streams.uniform(shape) for the whole batch, and by nothing else",
)


class DrawnNoiseSuite(ModuleSuite):
    """Tests of a conditioner with `draws` in its config; of others they ask nothing but the plain call."""

    def drawn(self, conditioner: Any, rows: Sequence[int], stream_seeds: Sequence[int]) -> Cond:
        """Encode the examples `rows` with a stream of each seed; without streams if it draws nothing."""
        batch = self.inputs(rows, self.sizes[0])
        if not self._draws:
            return conditioner.encode(batch)  # type: ignore[no-any-return]
        return conditioner.encode(batch, streams=Streams(stream_seeds))  # type: ignore[no-any-return]

    @property
    def _draws(self) -> bool:
        return configs.of(ConditionerConfig, self.config()).draws

    @Rule(
        Conditioner.encode,
        "takes the optional keyword",
        "say draws = True in the config, and write def encode(self, batch, *, streams=None)",
    )
    def test_takes_streams_if_it_draws(self) -> None:
        """Encode has the keyword `streams`, None by default, just where the config says `draws`."""
        keyword = inspect.signature(self.build().encode).parameters.get("streams")
        if not self._draws:
            assert keyword is None, "encode takes streams, and the config does not say that it draws"
            return
        assert keyword is not None, "the config says that it draws, and encode takes no streams"
        assert keyword.default is None, "encode without streams fails, and must take the deterministic mode"

    @_DRAWS
    def test_draws_from_its_streams(self) -> None:
        """Equal streams give equal bundles, other streams others; no global generator is touched."""
        if not self._draws:
            return
        conditioner = self.build()
        randomize(conditioner)
        with torch.no_grad():
            before = generators()
            first, again = (self.drawn(conditioner, range(3), seeds(range(3))).flat() for _ in range(2))
            touched = not all(same(a, b) for a, b in zip(before, generators(), strict=True))
            other = self.drawn(conditioner, range(3), seeds(range(7, 10))).flat()
        assert not touched, "with streams it draws from a global generator"
        assert same(first, again), "equal streams give other bundles"
        still = [i for i in range(3) if all(same(v[i], other[k][i]) for k, v in first.items())]
        assert not still, f"row {still[0]} is the same under other streams: nothing was drawn for it"

    @_DRAWS
    def test_a_row_draws_from_its_own_stream(self) -> None:
        """Another stream of example 0 changes row 0 and no other; a row alone is the row in a batch."""
        if not self._draws:
            return
        conditioner = self.build()
        randomize(conditioner)
        own = seeds(range(3))
        with torch.no_grad():
            whole = self.drawn(conditioner, range(3), own).flat()
            moved = self.drawn(conditioner, range(3), [seeds([9])[0], *own[1:]]).flat()
            alone = self.drawn(conditioner, [2], own[2:]).flat()
        changed = sorted(k for k, v in whole.items() if not same(v[1:], moved[k][1:]))
        assert not changed, f"another stream of example 0 changes {', '.join(changed)} of the other examples"
        for name, value in alone.items():
            far = float((self.row(name, whole, 2, alone).float() - value.float()).abs().max())
            assert far <= self.atol, f"{name}: example 2 draws otherwise in a batch of 3 than alone (by {far:.2g})"

    @Rule(
        Conditioner.encode, "equal streams give equal bundles", "write the parts that the spec declares in both modes"
    )
    def test_a_drawn_bundle_is_as_its_spec(self) -> None:
        """With streams, too, the bundle is as the spec declares, and its null as the bundle."""
        if not self._draws:
            return
        conditioner = self.build()
        with torch.no_grad():
            cond = self.drawn(conditioner, range(2), seeds(range(2)))
            problems = [*bundle_problems(cond, conditioner.spec, 2, self.latent.shape(self.sizes[0])[1:])]
            problems += null_problems(conditioner.null(cond), cond)
        assert not problems, f"with streams, {'; '.join(problems)}"
