"""A run's folder as an object: its recipe, its metrics, its model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core import storage
from ldm_core.api.recipe import Recipe
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.contracts import Precision
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.training.folder import metrics, own_files

if TYPE_CHECKING:
    from ldm_core.sampling.pipeline import Pipeline

_STAGES = {"first_stage": artifacts.STAGE_FILE, "denoiser": artifacts.MODEL_FILE}


@attrs.frozen(eq=False, repr=False)
class Run:
    """A run in its folder (path or URL), finished or not; :meth:`open` finds one, :func:`train` returns one."""

    folder: str
    catalog: Catalog | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, catalog: Catalog | None = None) -> Run:
        """The run in `folder`. ConfigError if there is none; `catalog`: where its parts are found, if not installed."""
        url = os.fspath(folder)
        if not storage.exists(storage.join(url, RECIPE_FILE)):
            raise ConfigError(f"{storage.shown(url)}: holds no run (no {RECIPE_FILE}); give the folder of one")
        return cls(url, catalog)

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run was last called with, complete."""
        url = storage.join(self.folder, RECIPE_FILE)
        return Recipe(documents.parse_yaml(storage.read_text(url), url))

    def metrics(self, stage: str = "") -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``, each a dict with `stage`, `step` and numbers, by stage and step; of one
        `stage` (``denoiser``, ``denoiser_validation``, ``first_stage``) with a name."""
        rows = metrics.read_rows(storage.join(self.folder, own_files.METRICS))
        return [row for row in rows if not stage or row["stage"] == stage]

    @property
    def trained(self) -> dict[str, int]:
        """The stages whose weights are there, ``first_stage`` and ``denoiser``, and their steps (0: not known, as of a
        stage that was taken over)."""
        found = {}
        for stage, name in _STAGES.items():
            url = storage.join(self.folder, name)
            if storage.exists(url):
                kind = "model" if stage == "denoiser" else stage
                steps = artifacts.read_header(url, kind, sha256="unread").extra.get("steps", 0)
                found[stage] = steps if isinstance(steps, int) else 0
        return found

    @property
    def finished(self) -> bool:
        """True if the denoiser is trained to the recipe's last step."""
        trainer = self.recipe.values().get("trainer") or {}
        return "denoiser" in (trained := self.trained) and trained["denoiser"] == trainer.get("steps", 0)

    def pipeline(self, *, device: str | None = None, precision: Precision = "fp32") -> Pipeline:
        """The trained model; CheckpointError if the run has none yet."""
        from ldm_core.sampling.pipeline import Pipeline

        if "denoiser" not in self.trained:
            raise CheckpointError(
                f"{storage.shown(self.folder)}: its denoiser is not trained to its end yet; train(...) with the same "
                "recipe and folder goes on"
            )
        return Pipeline.load(self.folder, device=device, precision=precision, catalog=self.catalog)

    def __repr__(self) -> str:
        steps = ", ".join(f"{stage} {count} steps" for stage, count in self.trained.items())
        return f"Run('{storage.shown(self.folder)}': {steps or 'nothing trained yet'})"
