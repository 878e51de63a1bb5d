"""Samples of other sizes than the model's: the model at another size, and whole pictures enlarged by it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self, cast

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.contracts import SIZE_KEYS, FirstStage, Site
from ldm_core.data.fit_notes import Size
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_core.model.build import make_first_stage, make_model, sampling_site
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import require_same, unfilled
from ldm_core.recipe.check import model_misfits, sampling_misfits
from ldm_core.recipe.recipe import AdapterPart, Recipe
from ldm_core.recipe.sizes import image_misfits
from ldm_core.sampling.arguments import SampleArguments, require_arguments
from ldm_core.sampling.inputs import count_of, rows_of, seeds_of
from ldm_core.sampling.made_from import described
from ldm_core.sampling.pieces.enlarged import Enlargement, Enlarger, whole_picture
from ldm_core.sampling.pieces.plan import Plan
from ldm_core.sampling.result import Callback, Progress, Sampled

WINDOWS = "multidiffusion"
"""The adapter by which latents beyond those of training are estimated in windows."""


@attrs.frozen(eq=False)
class _Group:
    """Successive images of one size: their plan, and their pictures as they were given."""

    pipeline: SizeMethods
    plan: Plan
    way: Enlargement
    pictures: Sequence[NDArray[np.uint8]]


class SizeMethods:
    """The methods of a pipeline for pictures of other sizes."""

    recipe: Recipe
    stage: FirstStage
    model: Model
    catalog: Catalog
    _site: Site
    _loaded: tuple[tuple[AdapterPart, ...], Model]
    _made: object

    if TYPE_CHECKING:  # the pipeline's own

        def _plan(self, prompts: str | Sequence[str] | None, given: SampleArguments) -> Plan: ...

        def _draw(
            self, plan: Plan, callback: Callback | None, before: Sequence[Sampled] = ()
        ) -> Iterator[list[Sampled]]: ...

        def with_recipe(self, recipe: Recipe) -> Self: ...

        def _remembering(self, former: Self, *settings: Mapping[str, Any] | Sequence[str]) -> Self: ...

        def with_settings(self, settings: Mapping[str, Any] | Iterable[str]) -> Self: ...

    def at_size(self, size: Size) -> Self:
        """The same model for pictures of `size` (height, width) pixels. Weights are shared; this one stays as it is.

        ConfigError with a line for each part at odds with the size, or if one picture of it is beyond the memory.
        """
        size = (int(size[0]), int(size[1]))
        adapters, loaded = self._loaded
        recipe = attrs.evolve(self.recipe, image_size=size)
        if problems := [*model_misfits(recipe), *sampling_misfits(recipe), *image_misfits(recipe)]:
            raise ConfigError(problems)
        base = attrs.evolve(recipe, adapters=adapters)
        with unfilled():
            stage = make_first_stage(base, self.catalog)
            model = make_model(base, self.catalog, stage)
        for name, fresh, filled in (("first stage", stage, self.stage), ("model", model, loaded)):
            _share(cast(nn.Module, fresh), cast(nn.Module, filled), f"the {name} at {size[0]}x{size[1]}")
        model.precision = loaded.precision  # its weights are rounded and laid out for it already
        made = copy(self)
        made.recipe, made.stage, made.model, made._made = base, stage, model, None
        made._loaded = adapters, model
        made._site = attrs.evolve(sampling_site(base, stage), first_stage=self._site.first_stage)
        return made.with_recipe(recipe)._remembering(self)

    def _for_whole(self, way: Enlargement) -> SizeMethods:
        """The pipeline at the size of `way`: larger latents in windows of its own, the coarse colours those of the
        given picture unless the recipe says otherwise."""
        settings: dict[str, object] = {}
        if self.recipe.sample.colour_fix is None:
            settings["sample"] = {"colour_fix": "wavelet"}
        latent = self.recipe.first_stage.config.latent
        own, cells = latent.shape(self.recipe.image_size)[1:], latent.shape(way.size)[1:]
        if any(many > few for many, few in zip(cells, own, strict=True)) and not any(
            part.use == WINDOWS for part in self.recipe.adapters
        ):
            if WINDOWS in self.catalog.names("adapter"):
                windows = {"use": WINDOWS, "window": list(own), "overlap": min(own) // 4}
                settings["adapters"] = {WINDOWS: windows}
            else:
                warnings.warn(
                    f"{WINDOWS} is not installed (pip install ldm-plugin-multidiffusion): the network sees the whole "
                    f"picture at once, larger than those that it was trained on",
                    stacklevel=6,
                )
        made: SizeMethods = self if way.size == self.recipe.image_size else self.at_size(way.size)
        return made.with_settings(settings) if settings else made

    def _planned(self, prompts: str | Sequence[str] | None, given: SampleArguments) -> Plan:
        """The plan for a method of the caller's; as deep below it as the others, so that warnings name his line."""
        return self._plan(prompts, given)

    def _fitted(
        self, prompts: str | Sequence[str] | None, given: SampleArguments, before: Sequence[Sampled] = ()
    ) -> Iterator[list[Sampled]]:
        """Check the arguments of ``sample``, then give its images, batch by batch."""
        return self._draw(self._plan(prompts, given), given.get("callback"), before)

    def _whole(
        self, prompts: str | Sequence[str] | None, given: SampleArguments, before: Sequence[Sampled] = ()
    ) -> Iterator[list[Sampled]]:
        """The same with `whole`."""
        require_arguments({"prompts": prompts, **given})
        enlarger = Enlarger.of(self.recipe)
        if enlarger is None:
            raise ConfigError("whole: this model has no picture to enlarge; leave it out")
        if given.get("start") is not None:
            raise ConfigError("whole: pictures are enlarged from noise; leave `start` out")
        rows = self._rows(enlarger, prompts, given)
        pictures: list[NDArray[np.uint8]] = [row[enlarger.key] for row in rows]
        seeds = seeds_of(self.recipe, rows, given.get("seed"))
        ways = [enlarger.way((one.shape[1], one.shape[2])) for one in pictures]
        made: dict[Enlargement, SizeMethods] = {}
        groups, first = list[_Group](), 0
        for way, some in groupby(ways):
            last = first + len(list(some))
            if way not in made:
                made[way] = self._for_whole(way)
            padded = [{**row, enlarger.key: way.padded(row[enlarger.key])} for row in rows[first:last]]
            asked: SampleArguments = {**given, "inputs": padded, "seed": seeds[first:last], "images": None}
            if isinstance(negative := given.get("negative"), str | Sequence) and negative:
                texts = [negative] if isinstance(negative, str) else negative
                asked["negative"] = [texts[i % len(texts)] for i in range(first, last)]
            groups.append(_Group(made[way], made[way]._plan(None, asked), way, pictures[first:last]))
            first = last
        return self._enlarged(enlarger.key, groups, given.get("callback"), before)

    def _rows(
        self, enlarger: Enlarger, prompts: str | Sequence[str] | None, given: SampleArguments
    ) -> list[dict[str, Any]]:
        """The inputs of each image, its picture as uint8 (c, H, W) of any size."""
        key = enlarger.key
        inputs, channels = given.get("inputs") or {}, self.recipe.image_channels
        listed = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        for row in listed:
            if others := [name for name in row if name != key and name in enlarger.pixels]:
                raise DataError(f"whole: '{others[0]}' has pixels too, and is not enlarged with '{key}'; leave one out")
        found = [{**row, key: whole_picture(row[key], channels, f"'{key}'")} if key in row else row for row in listed]
        rows = rows_of(self.recipe, prompts, found, count_of(given.get("images"), given.get("seed")))
        said = set[str]().union(*found)  # sizes of pictures are those of the samples, unless they are given
        return [{k: v for k, v in row.items() if k in said or k not in SIZE_KEYS} for row in rows]

    def _enlarged(
        self, key: str, groups: Sequence[_Group], callback: Callback | None, before: Sequence[Sampled]
    ) -> Iterator[list[Sampled]]:
        """The images of all groups, cut to their sizes."""
        chunks, images = sum(len(group.plan.chunks) for group in groups), sum(len(group.pictures) for group in groups)
        chunk = image = 0
        for group in groups:
            told = None if callback is None else _told(callback, len(group.plan.chunks), chunk, chunks, image, images)
            at = 0
            for batch in group.pipeline._draw(group.plan, told, before):
                cut = []
                for one in batch:
                    while group.plan.seeds[at] != one.seed:  # of an image that is not finite
                        at += 1
                    names: Mapping[str, Sequence[str]] = {}
                    about = described({key: group.pictures[at]}, names, (key,)) | {"whole": str(group.way)}
                    pixels = group.way.cut(one.image)
                    cut.append(attrs.evolve(one, image=pixels, metadata={**one.metadata, **about}))
                    at += 1
                yield cut
            chunk, image = chunk + len(group.plan.chunks), image + len(group.pictures)


def _told(callback: Callback, own: int, chunk: int, chunks: int, image: int, images: int) -> Callback:
    """`callback` for one group of several: `own` batches of `chunks`, after `chunk` batches with `image` images."""

    def tell(progress: Progress) -> bool | None:
        each = progress.steps // own
        step, done = chunk * each + progress.step, image + progress.images
        return callback(attrs.evolve(progress, step=step, steps=chunks * each, images=done, total=images))

    return tell


def _share(fresh: nn.Module, filled: nn.Module, what: str) -> None:
    """Give `fresh` the very tensors of `filled`, frozen; ConfigError for other shapes."""
    state = filled.state_dict()
    try:
        require_same(fresh, {k: tuple(v.shape) if isinstance(v, Tensor) else () for k, v in state.items()}, what)
    except CheckpointError as error:
        raise ConfigError(f"image_size: {error}; its weights are of one size") from None
    fresh.load_state_dict(state, assign=True)
    device = next((each.device for each in filled.parameters()), None)
    fresh.to(device).eval().requires_grad_(False)
