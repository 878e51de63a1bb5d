"""Inputs of the images of ``ldm-run sample``: one mapping for all, or one an image if options are repeated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.cli.inputs import in_turn, name_classes, read_mask, require_readers
from ldm_core.cli.samples.options import SampleOptions
from ldm_core.data.class_names import counts_of, spread
from ldm_core.data.inputs.fitted import fit_all
from ldm_core.data.inputs.forms import geometries
from ldm_core.errors import ConfigError, clean
from ldm_core.sampling.pieces.enlarged import Enlarger

if TYPE_CHECKING:
    from ldm_core.sampling.image_to_image import Start

Inputs = dict[str, Any] | list[dict[str, Any]]


@attrs.frozen
class Asked:
    """The given prompts, seeds, size and pictures, before a model is loaded."""

    prompts: list[str]
    seed: int | list[int] | None
    images: int | None
    size: tuple[int, int] | None
    pictures: Sequence[Any]  # uint8 (3, H, W) each

    @classmethod
    def of(cls, options: SampleOptions) -> Asked:
        """Read them; ConfigError for unreadable ones."""
        from ldm_core import storage
        from ldm_core.cli.inputs import read_prompts, read_seeds, read_size
        from ldm_core.data.images import decode_image

        given = options.pictures
        if given.strength is not None and not given.image:
            raise ConfigError(
                f"strength={given.strength:g} is for a run that begins from a picture; give one with `image`"
            )
        seeds = read_seeds(given.seeds)
        urls = [url for pattern in given.image for url in storage.expand(pattern)]
        return cls(
            [*options.inputs.prompt, *read_prompts(given.prompts)],
            given.seed if seeds is None else seeds,
            given.images,
            read_size(given.size, "--size"),
            [decode_image(storage.read_bytes(url), 3, url) for url in urls],
        )

    def arguments(self, options: SampleOptions, recipe: Any) -> dict[str, Any]:
        """Make the arguments of ``Pipeline.sample``, but for inputs and guidance."""
        return {
            "prompts": self.prompts or None,
            "images": self.images,
            "negative": list(options.pictures.negative) or None,
            "start": self._start(options.pictures.strength, recipe),
            "seed": self.seed,
            "steps": options.sampling.steps,
            "batch": options.batch,
        }

    def _start(self, strength: float | None, recipe: Any) -> Start | None:
        """The pictures to begin from: with a strength, or for a model without a reader of pictures."""
        if not self.pictures or (strength is None and "image" in recipe.inputs):
            return None
        from ldm_core.sampling.image_to_image import STRENGTH, Start

        return Start.image(list(self.pictures), strength=STRENGTH if strength is None else strength)


def read(options: SampleOptions, asked: Asked, pipeline: Any) -> tuple[Inputs, bool]:
    """Read the conditioners' inputs, at the model's image size and with class names as numbers.

    True beside them: pictures to enlarge are left as they are, to be enlarged whole, as one has a size of its own.

    Raises :class:`ConfigError` for an input without a reader, for a mask of another size than its picture, and for one
    without a hole. Warns of losses in fitting.
    """
    recipe = pipeline.recipe
    base = options.inputs.read(recipe.image_channels, recipe.image_size, kinds := geometries(recipe))
    columns = _repeated(options, asked, pipeline)
    if twice := [key for key in columns if key in base]:
        raise ConfigError(f"'{twice[0]}' is given twice, by --input and by an option of its own; give it once")
    require_readers([*base, *columns], {"": recipe.inputs})
    rows = in_turn(base, columns, asked.images or (len(asked.seed) if isinstance(asked.seed, list) else None))
    counts, fitted, notes = counts_of(recipe), [], dict[str, None]()
    enlarger = None if _for_one_size(options) else Enlarger.of(recipe)
    whole = enlarger is not None and any(map(enlarger.wants, rows))
    made: dict[tuple[Any, ...], dict[str, Any]] = {}
    named = partial(name_classes, class_names=pipeline.class_names, classes=counts, palettes=pipeline.palettes)
    for row in rows:
        key = tuple((name, id(value)) for name, value in row.items())
        if key not in made:
            drawn = {name: _drawn(value, row, recipe) if name == "mask" else value for name, value in row.items()}
            _require_alike(drawn, recipe)
            made[key], lines = (named(drawn), []) if whole else fit_all(named(drawn), recipe, kinds)
            notes |= dict.fromkeys([*lines, *_of_mask(made[key], row)])
        fitted.append(made[key])
    for line in notes:
        warnings.warn(line, stacklevel=1)
    return (fitted if len(rows) > 1 else fitted[0]), whole


def _for_one_size(options: SampleOptions) -> bool:
    """True if an option goes with pictures of one size alone."""
    given = options.pictures
    sized = given.size or any(item.partition("=")[0].strip() == "image_size" for item in options.given.settings)
    return bool(sized or given.strength is not None or options.grids.grid)


def _repeated(options: SampleOptions, asked: Asked, pipeline: Any) -> dict[str, Sequence[Any]]:
    """The values of repeatable options, by key; no entry without a value."""
    from ldm_core.data.images import to_channels

    recipe, names = pipeline.recipe, tuple(pipeline.class_names.get("class_label", ()))
    classes = spread("class_label", options.inputs.class_label, names, counts_of(recipe).get("class_label", 0))
    pictures: list[Any] = []
    if "image" in recipe.inputs:
        pictures = [to_channels(picture, recipe.image_channels) for picture in asked.pictures]
    masks = [_Mask(text, read_mask(text)) for text in options.pictures.mask]
    columns: dict[str, Sequence[Any]] = {"class_label": classes, "image": pictures, "mask": masks}
    return {key: values for key, values in columns.items() if values}


@attrs.frozen(eq=False)
class _Mask:
    """A mask as given: `value` is an array, or boxes to be drawn at the size of their picture."""

    text: str
    value: Any


def _drawn(mask: Any, row: Mapping[str, Any], recipe: Any) -> Any:
    """The array of a mask; boxes at the size of the picture beside them."""
    if not isinstance(mask, _Mask):
        return mask
    if not isinstance(mask.value, list):
        return mask.value
    from ldm_core.data.inputs.masks import of_boxes

    picture = row.get("image")
    size = recipe.image_size if picture is None else picture.shape[-2:]
    return of_boxes(mask.value, tuple(size), "--mask")


def _require_alike(row: Mapping[str, Any], recipe: Any) -> None:
    """Hold pictures, masks and label maps to two axes or three, and the latter to the size of their picture: they are
    cut and resized alike."""
    from ldm_core.data.inputs.forms import taken_sizes

    for key in ("image", "mask", "segmentation"):
        if key in row and getattr(row[key], "ndim", 0) not in (2, 3):
            raise ConfigError(
                f"{key}: expected a picture, or rows of numbers of one length; give a file, such as {key}=@FILE.png"
            )
    picture = row.get("image")
    if picture is None or "image" in taken_sizes(recipe):
        return
    tall, wide = picture.shape[-2:]
    for key in ("mask", "segmentation"):
        shape = row[key].shape[-2:] if key in row else (tall, wide)
        if shape != (tall, wide):
            raise ConfigError(
                f"the {key} is {shape[0]}x{shape[1]} and the picture {tall}x{wide} (height x width); give both at one "
                "size, pixel for pixel"
            )


def _of_mask(row: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Refuse a mask without a hole; a line for one over the whole picture."""
    if "mask" not in row:
        return
    from ldm_core.data.inputs.masks import holes

    found = holes(row["mask"])
    mask = given["mask"]
    name = clean(mask.text, 100) if isinstance(mask, _Mask) else "mask"
    size = "x".join(map(str, found.shape[-2:]))
    if not found.any():
        raise ConfigError(
            f"mask {name}: is empty at {size}, so that nothing is to be filled; holes are white (128 and above)"
        )
    if found.all():
        yield f"mask {name}: covers the whole picture at {size}, so that nothing of it is kept"
