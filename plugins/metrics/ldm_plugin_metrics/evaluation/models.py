"""Pictures of a model: samples, and reconstructions of its first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import digest
from ldm_core.contracts import EMPTY, SIZE_KEYS, FirstStage
from ldm_core.contracts.configs import GuidanceConfig, of
from ldm_core.data.class_names import counts_of
from ldm_core.data.images import decode_image, png_bytes
from ldm_core.errors import ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe, versions
from ldm_core.sampling import load as load_
from ldm_core.sampling import settings as sampling
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.run import reconstruct
from ldm_plugin_metrics.evaluation.pictures import DataPictures, PictureSet, Taken
from ldm_plugin_metrics.networks.weights import hash_of

BATCH = 16
"""Pictures of one call of a first stage."""


@attrs.frozen(kw_only=True)
class Drawing:
    """The sampling: `count` samples from the seed `seed` on; the others as ``Pipeline.sample`` takes them, none: the
    recipe's. `labels`: the classes as often as the data has them, or all equally often."""

    count: int
    seed: int = 0
    steps: int | None = None
    guidance: float | str | None = None
    batch: int | None = None
    labels: Literal["data", "balanced"] = "data"


@attrs.frozen(eq=False)
class Model:
    """A trained model, or its first stage alone, with its recipe."""

    recipe: Recipe
    stage: Any
    stage_sha256: str
    pipeline: Pipeline | None

    @property
    def measured(self) -> Pipeline | StageAlone:
        """The pipeline for metrics: of a first stage alone, one without a model."""
        return self.pipeline or StageAlone(self.recipe, self.stage)

    def with_inputs(self, pictures: PictureSet) -> PictureSet:
        """`pictures` of data with what the recipe makes of them for the model; others as they are."""
        if self.pipeline is None or not isinstance(pictures, DataPictures):
            return pictures
        return pictures.for_model(self.recipe, self.pipeline.catalog, self.pipeline.reads)


@attrs.frozen(eq=False)
class StageAlone:
    """A first stage in the place of a pipeline, for metrics that ask no more of it."""

    recipe: Recipe
    stage: Any
    model: None = None
    reads: tuple[str, ...] = ()
    class_names: Mapping[str, Sequence[str]] = EMPTY


class SampledPictures:
    """Samples of a pipeline, made when they are taken: picture i has the seed ``seed + i`` and the inputs of an example
    of `inputs`, at evenly spaced places. With `keep`, a folder, they are written there, and read back later."""

    name = "samples"

    def __init__(self, model: Model, drawing: Drawing, inputs: DataPictures | None, keep: str = "") -> None:
        assert model.pipeline is not None
        self._pipeline = pipeline = model.pipeline
        recipe, self._first_stage = pipeline.recipe, model.stage_sha256
        self._drawing, self._keep = drawing, keep
        self.size, self.channels = recipe.image_size, recipe.image_channels
        self._reads = tuple(key for key in pipeline.reads if key not in SIZE_KEYS)
        self._classes = counts_of(recipe).get("class_label", 0) if drawing.labels == "balanced" else 0
        self._of_data = tuple(key for key in self._reads if not (self._classes and key == "class_label"))
        if drawing.labels == "balanced" and not self._classes:
            raise ConfigError("labels=balanced: this model knows no number of classes; leave it out")
        if self._of_data and inputs is None:
            raise ConfigError(
                f"samples: the model reads {', '.join(self._of_data)}, and there is no data to take them from; give "
                "data that has them: --against DATA"
            )
        self._inputs = None if inputs is None else inputs.for_model(recipe, pipeline.catalog, self._of_data)
        kinds = {} if self._inputs is None else self._inputs.keys
        if lacking := [key for key in self._of_data if key not in kinds]:
            raise ConfigError(f"samples: the model reads '{lacking[0]}', and {_what(inputs)} offers {', '.join(kinds)}")
        self.keys: Mapping[str, str] = {key: kinds.get(key, "value") for key in ("image", *self._reads)}
        chosen = sampling.chosen(recipe, drawing.guidance, pipeline.catalog)
        self._batch = min(drawing.batch or recipe.sample.batch, 64)
        self._steps = drawing.steps or recipe.sample.steps
        self._chosen = chosen

    def __len__(self) -> int:
        return self._drawing.count

    def key(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        told = {k: v for k, v in self.about().items() if k not in ("what", "pictures", "versions", "preset")}
        return {**told, "count": len(self), "weights": self._weights(), "inputs": self._inputs_key()}

    def about(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        recipe, seed = self._chosen, self._drawing.seed
        parts = recipe.carried()
        return {
            "what": "samples",
            "pictures": len(self),
            "size": list(self.size),
            "channels": self.channels,
            "weights": self._pipeline.weights,
            "first_stage": self._first_stage,
            "sampler": recipe.sampler.use,
            "time_grid": recipe.time_grid.use,
            "steps": self._steps,
            "guidance": recipe.guidance.use,
            "scale": of(GuidanceConfig, recipe.guidance.config).scale,
            "seeds": [seed, seed + len(self) - 1],
            "batch": self._batch,
            "precision": self._pipeline.model.precision,
            **({"preset": self._pipeline.preset} if self._pipeline.preset else {}),
            "labels": self._drawing.labels if self._reads else "none",
            "inputs": None if self._inputs is None or not self._of_data else self._inputs.about(),
            "parts": {key: parts[key] for key in ("sampler", "guidance", "time_grid", "adapters", "sample")},
            "versions": versions(recipe, self._pipeline.catalog),
        }

    def take(self, places: range, keys: Sequence[str]) -> Taken:
        """See :class:`PictureSet`."""
        rows = [self._row(place) for place in places]
        images = self._kept(places)
        if images is None:
            images = self._sampled(places, rows)
        if lacking := [key for key in keys if key not in (*self._reads, "image")]:
            raise ConfigError(f"samples: have no '{lacking[0]}' (inputs: {', '.join(self._reads) or 'none'})")
        return Taken(images, [{"image": image, **row} for row, image in zip(rows, images, strict=True)])

    def _sampled(self, places: range, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
        drawing = self._drawing
        made: list[NDArray[np.uint8]] = []
        seeds = [drawing.seed + place for place in places]
        for sampled in self._pipeline.sample(
            inputs=rows if self._reads else None,
            images=len(places),
            seed=seeds,
            steps=drawing.steps,
            guidance=drawing.guidance,
            batch=self._batch,
        ):
            if self._keep:
                url = self._url(places[len(made)])
                storage.atomic_write(url, png_bytes(sampled.image, sampled.metadata))
            made.append(sampled.image)
        return np.stack(made)

    def kept(self, places: range) -> bool:
        """True if the pictures of these places lie in files, or none are to be kept."""
        return not self._keep or all(storage.exists(self._url(place)) for place in places)

    def _kept(self, places: range) -> NDArray[np.uint8] | None:
        if not self._keep or not self.kept(places):
            return None
        urls = [self._url(place) for place in places]
        return np.stack([decode_image(storage.read_bytes(url), self.channels, url) for url in urls])

    @cached_property
    def _folder(self) -> str:
        return storage.join(self._keep, digest(self.key())[:12])

    def _url(self, place: int) -> str:
        return storage.join(self._folder, f"{place:08d}.png")

    def _row(self, place: int) -> dict[str, Any]:
        """The inputs of a sample, classes as indices of the model."""
        row: dict[str, Any] = {}
        if self._of_data and self._inputs is not None:
            place_there = place * len(self._inputs) // len(self) if len(self) <= len(self._inputs) else place
            found = self._inputs.example(place_there % len(self._inputs), self._of_data)
            row = {key: found[key] for key in self._of_data}
            theirs, ours = self._inputs.class_names.get("class_label"), self._pipeline.class_names.get("class_label")
            if "class_label" in row and theirs and ours and list(theirs) != list(ours):
                name = theirs[int(row["class_label"])]  # one that the model lacks is refused in sampling
                row["class_label"] = np.int64(list(ours).index(name)) if name in ours else name
        if self._classes and "class_label" in self._reads:
            row["class_label"] = np.int64(place % self._classes)
        return row

    def _inputs_key(self) -> Any:
        return self._inputs.key() if self._of_data and self._inputs is not None else None

    def _weights(self) -> str:
        """The hash of the weights, of the tensors without a file."""
        parts: tuple[Any, ...] = (self._pipeline.model, self._pipeline.stage)
        return self._pipeline.weights or "+".join(hash_of(part) for part in parts)


class Reconstructions:
    """The pictures of a set after a trip through a first stage; `sha256` is the hash of its file."""

    name = "reconstructions"

    def __init__(self, stage: FirstStage, sha256: str, originals: PictureSet, device: torch.device) -> None:
        self._stage, self._sha256, self._originals, self._device = stage, sha256, originals, device
        self.size, self.channels, self.keys = originals.size, originals.channels, originals.keys

    def __len__(self) -> int:
        return len(self._originals)

    def key(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        return {"first_stage": self._sha256, "batch": BATCH, "originals": self._originals.key()}

    def about(self) -> dict[str, Any]:
        """See :class:`PictureSet`."""
        return {**self._originals.about(), "first_stage": self._sha256}

    def take(self, places: range, keys: Sequence[str]) -> Taken:
        """See :class:`PictureSet`."""
        taken = self._originals.take(places, keys)
        try:
            made = reconstruct(self._stage, taken.images, self._device, BATCH)
        except ValueError as error:
            raise ConfigError(f"reconstructions: {error}; say another --image-size") from None
        return Taken(made, taken.examples, taken.images)


def load(place: str, catalog: Catalog, device: torch.device, precision: Any) -> Model:
    """Load a run's folder, a file of weights, or a run with a first stage alone."""
    from ldm_core.model import trained
    from ldm_core.recipe.resolve import resolve
    from ldm_core.weights.convert import finder

    if not _stage_alone(place):
        loaded = load_.load(place, catalog, device=str(device), precision=precision)
        return Model(loaded.recipe, loaded.stage, loaded.first_stage, Pipeline.of(loaded))
    path = finder(catalog)(place, artifacts.STAGE_FILE)
    header = artifacts.stage_header(path)
    plain = {"first_stage": path, "image_channels": header.extra.get("image_channels", 3)}
    recipe = resolve(plain, catalog)
    return Model(recipe, trained.load_stage(recipe, catalog, path, device), header.sha256, None)


def _stage_alone(place: str) -> bool:
    if place.endswith(artifacts.STAGE_FILE):
        return True
    there = [storage.exists(storage.join(place, name)) for name in (artifacts.STAGE_FILE, artifacts.MODEL_FILE)]
    return there == [True, False]


def _what(inputs: DataPictures | None) -> str:
    return "the data" if inputs is None else inputs.what
