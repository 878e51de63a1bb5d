"""Identities: a stage's file counts as finished if it was made under the very recipe and data of the run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from ldm_core import storage
from ldm_core.config.structure import digest
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.places import known_by_content
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.checkpoints import known_data


class Identities:
    """The identities of a run's stages: hashes of the recipe, the data and, for the model, the first stage's file.

    `known_as` is the first recipe of the run in the folder `out`; `dataset` gives the training data.
    """

    def __init__(self, recipe: Recipe, known_as: Recipe, out: str, dataset: Callable[[], Any]) -> None:
        self._recipe, self._known_as, self._out, self._dataset = recipe, known_as, out, dataset
        self._stage_url = storage.join(out, artifacts.STAGE_FILE)

    def first_stage(self) -> str:
        """The identity of the first stage."""
        return self._with_data(self._first_stage())

    def model(self) -> str:
        """The identity of the model; the first stage's file must be there."""
        return self._with_data(self._model())

    def fingerprint(self, data: Any) -> str:
        """The fingerprint of `data`, made as at the run's begin: 0.1.0 also counted files read by nothing."""
        return self._fingerprints(data)

    def fingerprints(self, data: Any) -> list[str]:
        """The possible fingerprints of `data`, :meth:`fingerprint` first."""
        return [self.fingerprint(data), *(way(data) for way in known_data.ways(data))]

    @cached_property
    def _fingerprints(self) -> Callable[[Any], str]:
        dataset = self._dataset()
        ways = known_data.ways(dataset)
        stored = known_data.identities(self._recipe, self._out) if len(ways) > 1 else frozenset()
        own = self._without_data()
        match = (way for way in ways if any(digest([each, way(dataset)]) in stored for each in own))
        return next(match, ways[0])

    def require_same_data(self) -> None:
        """Raise ConfigError if the data, now in another place, is not the data of the folder's run."""
        stored = known_data.identities(self._recipe, self._out)
        prints = [way(self._dataset()) for way in known_data.ways(self._dataset())]
        mine = {digest([own, each]) for own in self._without_data() for each in prints}
        if stored and not stored & mine:
            raise ConfigError(
                f"{self._out} holds a run of other data: what was read from "
                f"{known_data.places(self._known_as)} is not what {known_data.places(self._recipe)} holds now; give "
                "another `out`, or that data"
            )

    def header_of(self, url: str, kind: str, identity: str, say: Callable[[str, str], None]) -> artifacts.Header | None:
        """The header of a stage's file, if it has this `identity` and was trained to its last step; else None."""
        if not storage.exists(url):
            return None
        try:
            header = artifacts.read_header(url, kind)
        except CheckpointError as error:
            say(f"{error}; it is made again", "warning")
            return None
        before, now = (
            (each.trainer if kind == "model" else each.first_stage_trainer).steps
            for each in (self._known_as, self._recipe)
        )
        whole = header.extra.get("steps", before) == now  # 0.1.0 did not say
        return header if header.extra.get("identity") == identity and whole else None

    def _with_data(self, own: str) -> str:
        return digest([own, self.fingerprint(self._dataset())])

    def _without_data(self) -> list[str]:
        known = [] if self._recipe.first_stage.weights else [self._first_stage()]
        return [*known, self._model()] if storage.exists(self._stage_url) else known

    def _first_stage(self) -> str:
        """The recipe's, with the content of the weights that its objective trains by, in any place."""
        own, conf = self._known_as.first_stage_identity(), self._recipe.stage_objective.config
        files = [file for place in known_by_content(conf) for file in place.split(",")]
        return digest([own, *map(artifacts.sha256, files)]) if files else own

    def _model(self) -> str:
        return digest([self._known_as.identity(), artifacts.sha256(self._stage_url)])
