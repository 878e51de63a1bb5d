"""``--init-from``: a run that starts from trained weights, ours or foreign; what of its recipe follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_core import artifacts, storage
from ldm_core.catalog import Catalog
from ldm_core.places import described

TAKEN = (
    "image_size",
    "image_channels",
    "conditioners",
    "denoiser",
    "schedule",
    "parameterization",
    "objective",
    "time_grid",
    "sampler",
    "guidance",
)
"""What a run without a recipe takes from the weights that it starts from."""
LEARNING_RATE = 1e-5
"""Of such a run: trained weights are lost at the rate of a fresh model."""


def start_from(plain: dict[str, Any], url: str, catalog: Catalog, *, whole: bool, first_stage: bool) -> list[str]:
    """Let the recipe `plain` start from the weights at `url`; lines to tell the user.

    `whole`: take the architecture from them too, as no recipe was given. `first_stage`: take theirs, where they have
    one, as the user named none. Raises CheckpointError where they are no model.
    """
    model = artifacts.find(url, artifacts.MODEL_FILE)
    header = artifacts.read_header(model, "model", sha256="unread")
    where = storage.shown(url)
    trainer = plain.get("trainer")
    plain["trainer"] = {**(trainer if isinstance(trainer, Mapping) else {}), "init_from": url}
    notes = []
    if whole:
        plain.pop("scale", None)
        theirs = described({key: header.config[key] for key in TAKEN if key in header.config}, catalog)
        plain.update(theirs)
        plain["trainer"]["lr"] = LEARNING_RATE
        notes.append(
            f"--init-from {where}: the model is built as those weights are, and trained as the recipe 'laptop' says, "
            f"with trainer.lr={LEARNING_RATE:g}; for more set trainer.steps=N, or give --recipe"
        )
    stage = storage.join(storage.parent(model), artifacts.STAGE_FILE)
    if first_stage and storage.exists(stage):
        native = model == url  # a file of ours, whose first stage lies beside it
        plain["first_stage"] = {"weights": stage if native else url}
        notes.append(f"--init-from {where}: its first stage is taken, frozen (another one: --first-stage)")
    return notes
