"""The sets of pictures of an evaluation: a model's or a folder's own, the reference, the training pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import SIZE_KEYS, Site
from ldm_core.errors import ConfigError
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.engine.world import World
from ldm_plugin_metrics.evaluation import models, places, statistics
from ldm_plugin_metrics.evaluation.asked import Asked
from ldm_plugin_metrics.evaluation.fitting import Fitting
from ldm_plugin_metrics.evaluation.pictures import ArrayPictures, DataPictures, PairedPictures, PictureSet
from ldm_plugin_metrics.evaluation.request import IMAGES, OF_SAMPLING, Request


class Sets:
    """The sets by name, once they are chosen: ``samples``, ``reconstructions`` and ``data`` of a model, ``pictures``;
    ``reference``, ``originals`` and ``training``. `stats` is a file of statistics in the place of a reference."""

    def __init__(self, request: Request, settings: dict[str, list[str]], catalog: Catalog, world: World, out: str):
        self.request, self.settings, self.catalog, self.world, self.out = request, settings, catalog, world, out
        self.chosen: dict[str, PictureSet] = {}
        self.stats: statistics.StatisticsFile | None = None
        self.run: places.Run | None = None
        self.metrics: Sequence[Asked] = ()
        self.model = self._model()
        fitting = self._fitting()
        self.opener = places.Opener(catalog, fitting)
        self._own = None if self.model is not None else self._pictures()
        if self._own is not None:
            fitting = attrs.evolve(fitting, size=self._own.size, channels=self._own.channels)
            self.opener = places.Opener(catalog, fitting)
        assert fitting.size is not None
        self.site = Site(size=fitting.size, channels=fitting.channels)

    def choose(self, metrics: Sequence[Asked]) -> None:
        """Open the sets of these metrics; ConfigError without one. Warns of a reference of training pictures."""
        self.metrics = metrics
        subjects = {each.config.subject for each in metrics}
        if self.model is None:
            self._sets_of_pictures(subjects)
        else:
            self._sets_of_model(subjects)
        if any(each.config.against == "training" for each in metrics):
            self.chosen["training"] = self._training()
        others = [self.chosen[name] for name in ("reference", "originals") if name in self.chosen]
        for said in dict.fromkeys(places.overlap(each, self.run, self.opener) for each in others):
            if said:
                warnings.warn(said, UserWarning, stacklevel=2)

    def own_name(self, each: Asked) -> str:
        """The set of a metric's own pictures."""
        subject = each.config.subject
        return "pictures" if self.model is None and subject != "reconstructions" else subject

    def against_name(self, each: Asked) -> str:
        """The set that a metric compares with; "" without one."""
        originals = self.model is not None and each.config.subject == "reconstructions"
        return {"set": "originals" if originals else "reference", "training": "training"}.get(each.config.against, "")

    def model_key(self) -> dict[str, str]:
        """The model, for rows of its own making: hashes of its files, and the precision."""
        if self.model is None:
            return {}
        stage, pipeline = {"first_stage": self.model.stage_sha256}, self.model.pipeline
        return (
            stage if pipeline is None else {"weights": pipeline.weights, **stage, "precision": pipeline.model.precision}
        )

    def names(self, each: Asked) -> list[str]:
        """The sets of a metric that hold pictures."""
        return [name for name in (self.own_name(each), self.against_name(each)) if name in self.chosen]

    def _model(self) -> models.Model | None:
        place, request = self.request.place, self.request
        if not places.is_model(place, self.catalog):
            given = [name for name in ("steps", "preset") if attrs.asdict(request)[name]]
            if lines := [line for key in OF_SAMPLING for line in self.settings[key]] or given:
                raise ConfigError(f"{lines[0]}: is of the sampling, and {storage.shown(place)} is no model")
            return None
        model = models.load(place, self.catalog, self.world.device, request.precision or "fp32")
        self.run = places.Run.of(place, asked=places.OWN in (request.against, request.training))
        lines = [line for key in OF_SAMPLING for line in self.settings[key]]
        if (pipeline := model.pipeline) is None:
            return model
        if request.preset:
            pipeline = pipeline.with_preset(request.preset, precision=request.precision)
        pipeline = pipeline.with_settings(lines) if lines else pipeline
        return attrs.evolve(model, pipeline=pipeline, recipe=pipeline.recipe)

    def _fitting(self) -> Fitting:
        request, model = self.request, self.model
        if model is None:
            return Fitting(request.size, request.channels or 3, request.fit, request.filter)
        size = model.recipe.image_size if model.pipeline is not None else request.size or self._size_of_run()
        if model.pipeline is not None and request.size not in (None, size):
            raise ConfigError(f"--image-size {request.size}: the model makes pictures of {size[0]}x{size[1]}")
        return Fitting(size, model.recipe.image_channels, request.fit, request.filter)

    def _size_of_run(self) -> tuple[int, int]:
        found = None if self.run is None else self.run.plain.get("image_size")
        if isinstance(found, int):
            return found, found
        if isinstance(found, list) and len(found) == 2 and all(isinstance(each, int) for each in found):
            return found[0], found[1]
        raise ConfigError("a first stage alone says no size of pictures; give one, such as --image-size 256")

    def _pictures(self) -> DataPictures | ArrayPictures:
        request = self.request
        return self.opener.pictures(request.place, self.settings["pictures"], name="pictures", count=request.images)

    def _sets_of_pictures(self, subjects: AbstractSet[str]) -> None:
        assert self._own is not None
        if lacking := [each.name for each in self.metrics if each.config.needs_pipeline]:
            raise ConfigError(
                f"{lacking[0]}: asks the model, and {storage.shown(self.request.place)} is pictures alone"
            )
        pairs = "reconstructions" in subjects  # of the reference, by name
        if pairs or self._wants_reference():
            self._open_reference()
        if subjects & {"samples", "data"}:
            self.chosen["pictures"] = self._own
        if pairs:
            if "reference" not in self.chosen:
                raise ConfigError("reconstructions are compared with their originals; give pictures: --against DATA")
            self.chosen["reconstructions"] = PairedPictures(self._own, self.chosen["reference"])

    def _sets_of_model(self, subjects: AbstractSet[str]) -> None:
        model, request = self.model, self.request
        assert model is not None
        if model.pipeline is None and (lacking := [e.name for e in self.metrics if e.config.subject == "samples"]):
            raise ConfigError(f"{lacking[0]}: is of samples, and {storage.shown(request.place)} is a first stage alone")
        if self._wants_reference():
            self._open_reference()
        if "samples" in subjects and model.pipeline is not None:
            drawing = models.Drawing(
                count=request.images or IMAGES,
                seed=request.seed,
                steps=request.steps,
                batch=request.batch,
                labels=request.labels,
            )
            keep = storage.join(self.out, "samples") if request.keep else ""
            inputs = self._inputs(model.pipeline.recipe)
            self.chosen["samples"] = models.SampledPictures(model, drawing, inputs, keep)
        if subjects & {"reconstructions", "data"}:
            some = model.with_inputs(self._some_of_reference())
            if "reconstructions" in subjects:
                device = self.world.device
                self.chosen["originals"] = some
                self.chosen["reconstructions"] = models.Reconstructions(model.stage, model.stage_sha256, some, device)
            if "data" in subjects:
                self.chosen["data"] = some

    def _wants_reference(self) -> bool:
        return any(self.against_name(each) == "reference" for each in self.metrics) and not (
            self.request.save_statistics and not self.request.against
        )

    def _open_reference(self) -> None:
        """Open the reference, or the file of its statistics."""
        against = self.request.against
        if statistics.is_archive(against) and not statistics.holds_pictures(against):
            self.stats = statistics.read_statistics(against)
        else:
            self.chosen["reference"] = self._compared(self.request.reference_images)

    def _compared(self, count: int | None, name: str = "reference") -> DataPictures | ArrayPictures:
        """Pictures of `against`, or of the run's own data."""
        request, settings = self.request, self.settings["against"]
        if request.against not in ("", places.OWN):
            return self.opener.pictures(request.against, settings, name=name, count=count)
        if self.run is None:
            what = "weights without their run" if self.model is not None else "pictures"
            raise ConfigError(
                f"{storage.shown(request.place)}: {what}; say what they are compared with: --against DATA"
            )
        self.run.require_near()
        return self.opener.held_out(self.run, settings, count=count, name=name)

    def _inputs(self, recipe: Recipe) -> DataPictures | None:
        """The data with the inputs of samples: the reference, or the run's own where that lacks them."""
        reference = self.chosen.get("reference")
        offered = reference.keys if isinstance(reference, DataPictures) else ()
        wanted = {key for key in recipe.asked(offered) if key not in SIZE_KEYS}
        if self.request.labels == "balanced":
            wanted.discard("class_label")
        if recipe.made:
            wanted.add("image")
        if not wanted:
            return None
        if isinstance(reference, DataPictures) and wanted <= reference.keys.keys():
            return reference
        if self.run is not None:
            self.run.require_near()
            own = () if self.request.against not in ("", places.OWN) else self.settings["against"]
            return self.opener.held_out(self.run, own, name="inputs")
        return reference if isinstance(reference, DataPictures) else None

    def _some_of_reference(self) -> PictureSet:
        """The originals of reconstructions: as many as images were asked for."""
        images, against = self.request.images, self.request.against
        if statistics.is_archive(against) and not statistics.holds_pictures(against):
            raise ConfigError("reconstructions are of pictures, and --against is a file of statistics; give pictures")
        whole = self._compared(None, "originals")
        return whole if images is None or images >= len(whole) else self._compared(images, "originals")

    def _training(self) -> DataPictures | ArrayPictures:
        request = self.request
        if request.training not in ("", places.OWN):
            return self.opener.pictures(request.training, self.settings["training"], name="training")
        if self.run is None:
            raise ConfigError("training pictures: the run's folder is not given; say where they are: --training DATA")
        self.run.require_near()
        return self.opener.training(self.run)
