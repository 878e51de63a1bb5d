"""The arguments of ``Pipeline.sample``: their names, and their types and ranges, checked before anything else: one door
for Python and the command line. Imports no torch."""

from __future__ import annotations

import inspect
import math
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ForwardRef, TypedDict, TypeVar

import numpy as np

from ldm_core.config.documents import not_unicode
from ldm_core.errors import ConfigError, quoted, suggest
from ldm_core.sampling.inputs import Inputs, Negative
from ldm_core.sampling.result import Callback

if TYPE_CHECKING:
    from ldm_core.sampling.image_to_image import Start

F = TypeVar("F", bound=Callable[..., Any])


class SampleArguments(TypedDict, total=False):
    """The arguments of ``Pipeline.sample`` beside the prompts; its docstring says their meaning."""

    inputs: Inputs | None
    images: int | None
    steps: int | None
    guidance: float | str | None
    preset: str | None
    negative: Negative | None
    start: Start | None
    whole: bool | None
    seed: int | Sequence[int] | None
    batch: int | None
    callback: Callback | None


_BEFORE = {
    "examples": "give `inputs` a list of mappings, one an image",
    "seeds": "give `seed` a list, one an image",
    "sampler": "choose it by pipeline.with_settings({'sampler': NAME})",
    "time_grid": "choose it by pipeline.with_settings({'time_grid': NAME})",
    "project_x0": "set it by pipeline.with_settings({'sample': {'project_x0': True}})",
    "image": "give start=Start.image(picture, strength=0.75) to begin from it, or inputs={'image': picture} if a "
    "conditioner reads it",
    "mask": "give inputs={'image': picture, 'mask': mask}",
    "latents": "give start=Start.latents(latents, strength=SHARE)",
    "strength": "give it with the start: start=Start.image(picture, strength=SHARE)",
    "stop": "give it with the start: start=Start.noise(stop=SHARE), or Start.image(picture, stop=SHARE)",
    "strict": "make the warnings errors: warnings.simplefilter('error', ldm_core.PromptWarning)",
    "done": "take the batches as they are made: for batch in pipeline.stream(...)",
}
"""Former arguments, and the way to say the same now."""


def spelled_out(function: F) -> F:
    """Show the arguments of :class:`SampleArguments` one by one in `function`'s signature."""
    own = inspect.signature(function)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    kinds = {
        n: k.__forward_arg__ if isinstance(k, ForwardRef) else k for n, k in SampleArguments.__annotations__.items()
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in kinds.items()]
    function.__signature__ = own.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    return function


def require_names(function: str, given: Mapping[str, Any]) -> None:
    """Raise TypeError for an argument that `function` does not take: a former one with today's way to say it."""
    known = SampleArguments.__annotations__
    if function == "begin" and given.get("whole"):
        raise TypeError("begin() draws pictures of one size; leave 'whole' out")
    for name in given:
        if name in _BEFORE:
            raise TypeError(f"{function}() takes no '{name}' any more; {_BEFORE[name]}")
        if name not in known:
            every = ["prompts", *known]
            near = suggest(name, every)
            takes = f"{near} It takes" if near else "; it takes"
            raise TypeError(f"{function}() got an unexpected keyword argument '{name}'{takes} {', '.join(every)}")


_LONGEST = 10_000_000  # images of one call: their inputs alone would fill a machine's memory
_MOST_STEPS = 1_000_000
_WHOLE = {"images": 1, "steps": 1, "batch": 1}
_ARRAYS = {
    "image": "uint8 (channels, height, width), or a PIL image",
    "segmentation": "whole numbers (height, width), or a PIL image",
    "mask": "(height, width), or a PIL image",
    "boxes": "rows of x, y, w, h in [0, 1]",
    "embedding": "(width,)",
}
_PICTURES = ("image", "segmentation", "mask")  # keys that a PIL image may stand for


def require_arguments(given: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError`, a line with the argument's name each, for impossible values: another type, out of
    range, NaN or infinite, text with broken Unicode. None passes; a `start` has its own check."""
    given = {name: value for name, value in given.items() if value is not None}
    problems = [*_numbers(given), *_texts(given), *_rows(given), *_others(given)]
    if problems:
        raise ConfigError(problems)


def _numbers(given: Mapping[str, Any]) -> Iterator[str]:
    for name, least in _WHOLE.items():
        if name in given and not _is_whole(given[name], least):
            yield f"{name}={_shown(given[name])}: expected a whole number above 0"
        elif name == "images" and name in given and given[name] > _LONGEST:
            yield f"images={_shown(given[name])}: at most {_LONGEST:,} at once"
        elif name == "steps" and name in given and given[name] > _MOST_STEPS:
            yield f"steps={_shown(given[name])}: at most {_MOST_STEPS:,}"
    seed = given.get("seed", 0)
    if isinstance(seed, str | bytes | Mapping) or not (_is_sequence(seed) or _is_whole(seed)):
        yield f"seed={_shown(seed)}: expected a whole number, or a list of them, one an image"
    elif wrong := next(((i, s) for i, s in enumerate(seed if _is_sequence(seed) else ()) if not _is_whole(s)), None):
        yield f"seed: number {wrong[0]} is {_shown(wrong[1])}; expected whole numbers, one an image"
    guidance = given.get("guidance")
    if guidance is not None and not isinstance(guidance, str) and not _is_number(guidance):
        yield (
            f"guidance={_shown(guidance)}: expected a finite scale, such as 3 (1 is without guidance), or the name of "
            "a guidance"
        )


def _texts(given: Mapping[str, Any]) -> Iterator[str]:
    guidance = given.get("guidance")
    if isinstance(guidance, str) and (problem := text_problem(guidance)):
        yield f"guidance: {problem}"
    for name in ("prompts", "negative"):
        value = given.get(name)
        if value is None or (name == "negative" and isinstance(value, Mapping)):
            continue
        if isinstance(value, str):
            texts: Sequence[Any] = [value]
        elif isinstance(value, bytes | Mapping) or not _is_sequence(value):
            more = ", or a mapping as inputs is" if name == "negative" else ""
            yield f"{name}: expected a text or a list of texts{more}, got {_shown(value)}"
            continue
        else:
            texts = value
        for i, text in enumerate(texts):
            if problem := text_problem(text):
                yield f"{name}{f', number {i}' if len(texts) > 1 else ''}: {problem}"
                break


def text_problem(value: Any) -> str:
    """Say why a value is no caption; "" for a good one."""
    if not isinstance(value, str):
        return f"expected a text, got {_shown(value)}"
    return not_unicode(value)


def _rows(given: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(negative := given.get("negative"), Mapping):
        yield from _row("negative", negative)
    inputs = given.get("inputs")
    if inputs is None or isinstance(inputs, Mapping):
        yield from _row("inputs", inputs or {})
        return
    if isinstance(inputs, str | bytes) or not _is_sequence(inputs):
        expected = "a mapping from a conditioner's key to its value, or a list of such mappings, one an image"
        yield f"inputs: expected {expected}, got {_shown(inputs)}"
        return
    for i, row in enumerate(inputs):
        found = [f"inputs[{i}]: expected a mapping from keys to values, got {_shown(row)}"]
        if isinstance(row, Mapping):
            found = list(_row(f"inputs[{i}]", row))
        if found:
            yield from found
            return


def _row(name: str, row: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in row.items():
        if not isinstance(key, str):
            yield f"{name}: a key is {_shown(key)}; keys are texts, such as 'caption'"
        elif key in _PICTURES and _is_picture(value):
            continue
        elif key in _ARRAYS and not _is_array(value):
            yield f"{name}['{key}']: expected an array of numbers, {_ARRAYS[key]}, got {_shown(value)}"
        elif isinstance(value, str) or key == "caption":
            if problem := text_problem(value):
                yield f"{name}['{key}']: {problem}"
        elif not _is_finite(value):
            yield f"{name}['{key}']: holds values that are not finite (NaN or infinite)"


def _others(given: Mapping[str, Any]) -> Iterator[str]:
    if "callback" in given and not callable(given["callback"]):
        yield f"callback={_shown(given['callback'])}: expected a function of the progress"
    if not isinstance(given.get("whole", False), bool):
        yield f"whole={_shown(given['whole'])}: expected True or False"
    if "start" in given and type(given["start"]).__name__ != "Start":
        yield f"start={_shown(given['start'])}: expected Start.image(...), Start.latents(...) or Start.noise(...)"


def _is_whole(value: Any, least: int | None = None) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and (least is None or int(value) >= least)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(float(value))


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _is_array(value: Any) -> bool:
    """True for numbers on one axis or more, in an array, a tensor or lists; not for text or ragged lists."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0 and value.dtype.kind in "biuf"
    if _is_tensor(value):
        return value.dim() > 0
    if not isinstance(value, list | tuple):
        return False
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (ValueError, TypeError, RuntimeError, OverflowError):
        return False


def _is_picture(value: Any) -> bool:
    pil = sys.modules.get("PIL.Image")  # a caller with a picture has imported it
    return pil is not None and isinstance(value, pil.Image)


def _is_finite(value: Any) -> bool:
    """False for NaN or infinity in a number, an array or a list of them; all else is for its conditioner."""
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    return not _is_tensor(value) or bool(value.isfinite().all())


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # a caller with a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _shown(value: Any) -> str:
    if isinstance(value, str | bytes | bool | numbers.Number | None):
        return quoted(value)
    return f"{type(value).__name__} {quoted(value)}"
