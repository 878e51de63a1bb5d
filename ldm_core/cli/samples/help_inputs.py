"""``ldm-run sample MODEL --help-inputs``: the inputs of one model, key by key, and a command to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ldm_core.cli.flags import input_flag
from ldm_core.config.structure import unstructure
from ldm_core.contracts import ConditionerConfig, DenoiserConfig, GuidanceConfig, KeyForm
from ldm_core.contracts.configs import of
from ldm_core.contracts.values import EMPTY, SIZE_KEYS
from ldm_core.data.class_names import counts_of
from ldm_core.data.fit_notes import multiple_of
from ldm_core.data.inputs.forms import NOUNS, form_of, noun_of, taken_sizes
from ldm_core.errors import clean
from ldm_core.sampling.pieces.enlarged import Enlarger
from ldm_core.weights.presets import Preset

_NAMED = 20  # classes that are listed by name
_ALSO = {
    "boxes": 'as {"boxes": [...], "labels": [...]}, a file or JSON',
    "mask": "or boxes [x, y, w, h] as JSON",
    "segmentation": "rows of numbers as JSON are stretched to the size",
}
_LONGEST = 24  # numbers of an example that is written out


@attrs.frozen
class Key:
    """One key: its conditioners, its option, its form, and its classes."""

    key: str
    readers: tuple[str, ...]
    option: str
    form: KeyForm
    classes: int
    names: tuple[str, ...]
    required: bool
    enlarged: bool = False

    def line(self) -> str:
        """The key for a reader."""
        noun = noun_of(self.key, self.form.geometry)
        said = [noun.removeprefix("a ").removeprefix("an "), self.form.words, _ALSO.get(self.key, "")]
        if self.names:
            some = ", ".join(clean(name, 40) for name in self.names[:_NAMED])
            more = f", ... ({self.classes} in all)" if len(self.names) > _NAMED else f" ({self.classes})"
            said.append(some + more)
        said.append("of any other size: enlarged whole, without --size" if self.enlarged else "")
        by = ", ".join(f"'{name}'" for name in self.readers)
        return f"  {self.option:<24}  {'; '.join(filter(None, said))}  [key '{self.key}', read by {by}]"


@attrs.frozen
class Taken:
    """The inputs of one model, by its recipe and its class names."""

    model: str
    recipe: Any
    keys: tuple[Key, ...]
    presets: Mapping[str, Preset] = EMPTY

    @classmethod
    def of(cls, pipeline: Any, model: str) -> Taken:
        """Ask a pipeline, loaded from `model`."""
        recipe = pipeline.recipe
        return cls(model, recipe, tuple(_key(pipeline, key) for key in recipe.inputs), pipeline.presets)

    @property
    def needed(self) -> list[Key]:
        """The keys to be given for each image."""
        return [key for key in self.keys if key.required]

    def lines(self) -> Iterator[str]:
        """The help, line by line."""
        yield f"{self.model}: pictures of {self._sizes()}"
        if not self.keys:
            yield "It needs nothing: its samples are unconditional."
        for title, keys in (("It needs", self.needed), ("It takes", [k for k in self.keys if not k.required])):
            if keys:
                yield f"{title}:"
                yield from (key.line() for key in keys)
        yield "It also takes:"
        if "image" not in self.recipe.inputs:
            yield "  --image PICTURE           a picture to begin from; --strength SHARE is how much of it changes"
            yield "  --image with --mask       a picture to be filled where the mask is white (guides=[blend])"
        yield f"  --guidance SCALE          {self._guidance()}"
        yield from presets_in_words(self.presets)
        yield "For example:"
        yield f"  {self.example()}"

    def document(self) -> dict[str, Any]:
        """The help for a program."""
        size, guidance = self.recipe.image_size, of(GuidanceConfig, self.recipe.guidance.config)
        inputs = [
            {
                "key": key.key,
                "conditioners": list(key.readers),
                "option": key.option,
                "required": key.required,
                "form": key.form.words,
                "geometry": key.form.geometry or None,
                "classes": key.classes or None,
                "class_names": list(key.names),
            }
            for key in self.keys
        ]
        return {
            "status": "done",
            "inputs": inputs,
            "image_size": list(size),
            "image_channels": self.recipe.image_channels,
            "multiple": multiple_of(self.recipe),
            "largest": self._largest(),
            "guidance": {
                "use": self.recipe.guidance.use,
                "scale": guidance.scale,
                "negative": guidance.needs_null,
            },
            "presets": unstructure(self.presets),
            "example": self.example(),
        }

    def _largest(self) -> list[int] | None:
        """The denoiser's largest size, if it has one."""
        most = of(DenoiserConfig, self.recipe.denoiser.config).max_size
        stride = self.recipe.first_stage.config.latent.stride
        return None if most is None else [cells * step for cells, step in zip(most, stride, strict=True)]

    def _sizes(self) -> str:
        height, width = self.recipe.image_size
        most = self._largest()
        said = f"{height}x{width} (height x width)"
        others = f"--size takes multiples of {multiple_of(self.recipe)}"
        return f"{said}; {others}" + (f", up to {most[0]}x{most[1]}" if most else "")

    def _guidance(self) -> str:
        """The model's guidance and its needs."""
        part = self.recipe.guidance
        config = of(GuidanceConfig, part.config)
        drops = [c.name for c in self.recipe.conditioners if of(ConditionerConfig, c.config).droppable and c.dropout]
        if config.scale is None:
            with_one = "; with one: guidance.use=cfg guidance.scale=3" if drops else ""
            return f"none: guidance '{part.use}' has no scale{with_one}"
        said = f"{part.use}, {config.scale:g} unless said otherwise; 1 is without guidance"
        if config.needs_null and "caption" in self.recipe.reads:
            said += "; --negative TEXT moves away from a caption"
        if config.needs_null and self.recipe.conditioners and not drops:
            said += "; no condition was dropped in training, so that guidance has little to go by"
        return said

    def example(self) -> str:
        """A command with a value for each key, behind those to make its files."""
        before, words = [], ["ldm-run", "sample", shlex.quote(self.model)]
        for key in self.keys:
            made, option = _example(key, self)
            before += made
            words += option
        if of(GuidanceConfig, self.recipe.guidance.config).scale is not None:
            words += ["--guidance", "3"]
        return " && ".join([*dict.fromkeys(before), " ".join([*words, "--images", "2"])])


def presets_in_words(presets: Mapping[str, Preset]) -> Iterator[str]:
    """The presets of a model, with what was measured of them."""
    if presets:
        yield "Its presets:"
    machines = dict[str, None]()
    for name, preset in presets.items():
        found = preset.measured
        yield f"  --preset {name:<15}  {found.in_words() if found else 'not measured'}"
        if found and found.machine:
            machines[f"  measured on {clean(found.machine)}"] = None
    yield from machines


def _key(pipeline: Any, key: str) -> Key:
    recipe = pipeline.recipe
    readers = tuple(part.name for part in recipe.conditioners if key in part.config.reads)
    readers += tuple(part.label for part in recipe.guidances if key in of(GuidanceConfig, part.config).reads)
    names = tuple(pipeline.class_names.get(key, ()))
    option = input_flag(key, sampling=True) if key in NOUNS else f"--input {key}=VALUE|@FILE"
    count = counts_of(recipe).get(key, 0) or len(names)
    enlarger = Enlarger.of(recipe)
    whole = enlarger is not None and key == enlarger.key
    return Key(key, readers, option, form_of(recipe, key), count, names, key not in SIZE_KEYS, whole)


def _example(key: Key, taken: Taken) -> tuple[list[str], list[str]]:
    """Commands to make the files of a key's example, and the words of its option."""
    name, value = key.key, key.form.example
    if name == "class_label":
        return [], ["--class", shlex.quote(key.names[0] if key.names else "0")]
    if name == "caption":
        return [], ["--prompt", shlex.quote(str(value or "a red circle"))]
    if name == "boxes":
        labels = next((k for k in taken.keys if k.key == "box_labels"), None)
        boxes = value or [[0.1, 0.2, 0.4, 0.5]]
        first = labels.names[0] if labels and labels.names else 0
        said: Mapping[str, Any] = {"boxes": boxes, **({"labels": [first] * len(boxes)} if labels else {})}
        return [], ["--boxes", shlex.quote(json.dumps(said))]
    if name == "mask":
        return [], ["--mask", "'[0.25, 0.25, 0.5, 0.5]'"]
    if name == "segmentation":
        return [], ["--segmentation", f"'{json.dumps(value or [[0, 0], [0, 1]])}'"]
    if name == "box_labels" or name in SIZE_KEYS:
        return [], []
    if "image" in (name, key.form.geometry):
        return _picture(taken, name)
    if isinstance(value, list) and len(value) > _LONGEST:
        file = f"{name}.npy"
        line = f"import numpy; numpy.save('{file}', numpy.zeros({len(value)}, 'float32'))"
        return [f'python -c "{line}"'], ["--input", f"{name}=@{file}"]
    return [], ["--input", shlex.quote(f"{name}={json.dumps(value) if value is not None else 'VALUE'}")]


def _picture(taken: Taken, key: str) -> tuple[list[str], list[str]]:
    """A picture: one of the run's own, or a grey one made by a command."""
    from ldm_core import storage

    own = storage.join(taken.model, "samples/0000.png")
    if storage.is_folder(taken.model) and storage.exists(own):
        return [], _of_file(key, own)
    height, width = taken_sizes(taken.recipe).get(key, taken.recipe.image_size)
    line = f"from PIL import Image; Image.new('RGB', ({width}, {height}), 'gray').save('picture.png')"
    return [f'python -c "{line}"'], _of_file(key, "picture.png")


def _of_file(key: str, file: str) -> list[str]:
    """The option of a picture."""
    return ["--image", shlex.quote(file)] if key == "image" else ["--input", shlex.quote(f"{key}=@{file}")]
