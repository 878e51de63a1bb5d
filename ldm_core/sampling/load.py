"""A pipeline from a run's folder, a file of ours or foreign weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import ModelWeights
from ldm_core.contracts.values import Precision
from ldm_core.errors import CheckpointError
from ldm_core.weights.complete import _resting, _shapes, recipe_of
from ldm_core.weights.open import NATIVE, Wanted, open_weights

if TYPE_CHECKING:
    from ldm_core.sampling.pipeline import Pipeline
if TYPE_CHECKING:
    from ldm_core.sampling.pipeline import Pipeline


def load(
    url: str,
    catalog: Catalog,
    wanted: Wanted | None = None,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
) -> Pipeline:
    """A pipeline from weights of any known format. Raises what reading raises, and CheckpointError for a part alone."""
    opened = open_weights(url, catalog, wanted)
    made = to_pipeline(opened.weights, catalog, device, precision, opened.sha256, opened.url)
    made.made_by = "" if opened.codec == NATIVE else opened.codec
    return made


def to_pipeline(
    weights: ModelWeights,
    catalog: Catalog,
    device: str | None = None,
    precision: Precision = "fp32",
    sha256: str = "",
    where: str = "these weights",
) -> Pipeline:
    """A pipeline of a whole model; `sha256`, the hash of what was read, travels in its pictures.

    `precision`: of the arithmetic inside the networks, see :func:`ldm_core.model.precision.settle`. Raises
    CheckpointError where `weights` are a part alone, or not those of the recipe.
    """
    from ldm_core.model.budget import held_to
    from ldm_core.model.build import make_first_stage, make_model
    from ldm_core.model.fill import device_named, load_weights, unfilled
    from ldm_core.model.precision import settle
    from ldm_core.sampling.pipeline import Pipeline

    if weights.model is None or weights.first_stage is None:
        raise CheckpointError(_lone(weights, where))
    recipe = recipe_of(weights, catalog)
    place = device_named(device)
    parts = {"first_stage": weights.first_stage, "model": weights.model}
    stored = _shapes({f"{name}.{k}": v for name, part in parts.items() for k, v in part.items()})
    with held_to(stored, where), unfilled():
        stage: Any = make_first_stage(recipe, catalog)
        model = make_model(recipe, catalog, stage)
    load_weights(stage, dict(weights.first_stage), f"{where}, first stage")
    load_weights(model, dict(weights.model), f"{where}, model")
    _resting(stage.to(place))
    _resting(model.to(place))
    settle(model, precision)
    return Pipeline(recipe, stage, model, catalog, weights=sha256, class_names=weights.class_names)


def _lone(weights: ModelWeights, where: str) -> str:
    if weights.model is None:
        return (
            f"{where}: is a first stage alone, and nothing to sample from; see what it keeps with "
            "`ldm-run reconstruct`, or train a model on it with --first-stage"
        )
    if any(name.startswith("denoiser.") for name in weights.model):
        return f"{where}: is a denoiser without a first stage; give the first stage with --first-stage PATH_OR_URL"
    return f"{where}: is a conditioner alone, and nothing to sample from"
