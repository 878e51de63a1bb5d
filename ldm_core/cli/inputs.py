"""Inputs that steer the samples: ``--input``, ``--prompt``, ``--boxes``, ``--segmentation``, ``--class``.

Values have the form of one example of a data set: arrays of numpy, text, whole numbers. Torch-free; numpy is imported
when an array is made. Nothing read is ever executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ldm_core import storage
from ldm_core.config.documents import parse_json, parse_yaml
from ldm_core.data.class_names import indices as class_indices
from ldm_core.data.inputs.fitted import KNOWN
from ldm_core.errors import ConfigError, clean, quoted, suggest

if TYPE_CHECKING:
    from ldm_core.data.palettes import Palette

FILES = (".json", ".yaml", ".yml", ".txt", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy")
"""Files of ``KEY=@FILE``, by their extension."""


_MOST_PIPED = 64 << 20
"""Bytes of prompts from another program, at most."""


def read_inputs(
    pairs: Iterable[str] = (),
    *,
    boxes: str | None = None,
    segmentation: str | None = None,
    image_channels: int = 3,
    size: tuple[int, int] | None = None,
    keys: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read the given inputs but the prompts: key -> value of one example, class names still as text.

    A label map of rows of numbers is stretched to `size` (h, w). `keys`: key -> geometry, by which files are read.

    Raises :class:`ConfigError` for an unreadable pair or value, with all mistakes at once, and
    :class:`ldm_core.errors.StorageError` or :class:`ldm_core.errors.DataError` for an unreadable file.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []

    def put(option: str, key: str, value: Any) -> None:
        if key in found:
            problems.append(f"{option}: '{key}' is given twice")
        found[key] = value

    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            shown = clean(pair, 100)
            problems.append(f"--input '{shown}': expected KEY=VALUE or KEY=@FILE, such as caption='a red circle'")
            continue
        try:
            put("--input", key, _value(key, text, image_channels, keys or {}))
        except ConfigError as error:
            problems += error.problems
    try:
        if boxes is not None:
            for key, value in read_boxes(boxes).items():
                put("--boxes", key, value)
        if segmentation is not None:
            put("--segmentation", "segmentation", _label_map(segmentation, image_channels, size))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def _value(key: str, text: str, channels: int, keys: Mapping[str, str]) -> Any:
    if text.startswith("@"):
        return _file(key, text[1:], channels, keys.get(key, ""))
    if key == "caption":
        return text
    value = _shaped(key, parse_yaml(text, f"--input {key}"))
    if key == "class_label" and isinstance(value, int | float):
        return text.strip()  # a name, before it is a number: 007 is not 7
    if key in (*KNOWN, "embedding") and isinstance(value, str):
        example = "vectors.npy" if key == "embedding" else "photo.png"
        raise ConfigError(f"--input {key}={clean(text, 100)}: expected a file, such as {key}=@{clean(text or example)}")
    return value


def _file(key: str, url: str, channels: int, geometry: str = "") -> Any:
    suffix = "." + storage.base_name(url).rpartition(".")[2].lower()
    if suffix not in FILES:
        raise ConfigError(f"--input {key}=@{url}: cannot tell what '{suffix}' holds (known: {', '.join(FILES)})")
    if suffix in (".json", ".yaml", ".yml", ".txt"):
        text = storage.read_text(url)
        if suffix == ".txt":
            return text.strip()
        return _shaped(key, parse_json(text, url) if suffix == ".json" else parse_yaml(text, url))
    data = storage.read_bytes(url)
    if suffix == ".npy":
        from ldm_core.data.arrays import read_npy

        return read_npy(data, url)
    from ldm_core.data import images

    if key == "mask":
        return images.decode_mask(data, url)
    picture = "image" in (key, geometry)
    if key == "segmentation" or geometry == "map" or (not picture and suffix == ".png"):
        return images.decode_labels(data, url, colours=key == "segmentation")
    return images.decode_image(data, channels, url)


def _shaped(key: str, value: Any) -> Any:
    """Give a value its key's form in data sets; a list of numbers becomes an array."""
    if key == "boxes" and isinstance(value, Mapping):
        raise ConfigError("boxes: a list of [x, y, w, h] was expected; --boxes takes boxes with their labels")
    if key == "boxes":
        return _boxes(value, "boxes")
    if key == "caption":
        if not isinstance(value, str | int | float):
            raise ConfigError(f"caption: expected text, got {quoted(value)}")
        return str(value)
    if key == "box_labels":
        return _labels(value, None, "box_labels")
    return _array(value) if isinstance(value, list) else value


def _array(value: list[Any]) -> Any:
    import numpy as np

    try:
        array = np.array(value)
    except ValueError:  # rows of unequal length: left to the conditioner that asked for the key
        return value
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype.kind == "f" else value


def _label_map(text: str, channels: int, size: tuple[int, int] | None) -> Any:
    """Read a label map: a picture, or rows of numbers as JSON, stretched to `size`."""
    if not text.lstrip().startswith("["):
        return _file("segmentation", text, channels)
    found = _shaped("segmentation", parse_json(text, "--segmentation"))
    if isinstance(found, list) or found.ndim != 2 or found.dtype.kind != "i" or not found.size:
        raise ConfigError(
            f"--segmentation {clean(text, 60)}: expected a PNG, or rows of whole numbers of one length such as "
            "[[0, 0], [1, 2]]"
        )
    if size is None:
        return found
    rows, columns = ([i * have // want for i in range(want)] for want, have in zip(size, found.shape, strict=True))
    return found[rows][:, columns]


def read_mask(text: str) -> Any:
    """Read ``--mask``: a picture -> int64 (H, W), or boxes as JSON, [x, y, w, h] or a list of those -> a list."""
    if not text.lstrip().startswith("["):
        return _file("mask", text, 3)
    found = parse_json(text, "--mask")
    boxes = found if found and isinstance(found[0], list) else [found]
    if not all(isinstance(box, list) and len(box) == 4 for box in boxes):
        raise ConfigError(f"--mask {clean(text, 60)}: expected a picture, or a box [x, y, w, h] or a list of boxes")
    return boxes


def in_turn(
    base: Mapping[str, Any], columns: Mapping[str, Sequence[Any]], count: int | None = None
) -> list[dict[str, Any]]:
    """One mapping an image of values that are the same for all, and of those of which each image has the next.

    Without `count` there are as many as the longest of `columns`. One mapping alone is for all images.
    """
    longest = max(map(len, columns.values()), default=1)
    several = range((count or longest) if longest > 1 else 1)
    return [{**base, **{key: values[i % len(values)] for key, values in columns.items()}} for i in several]


def read_boxes(text: str, name: str = "--boxes") -> dict[str, Any]:
    """Read JSON, or the path or URL of a JSON file: `boxes` (N, 4) and perhaps `box_labels`. Errors call JSON `name`.

    ``{"boxes": [[x, y, w, h], ...], "labels": [...]}`` in fractions of the image, x and y of the upper left corner;
    labels are class numbers or names. A bare list holds boxes without labels.
    """
    inline = text.lstrip().startswith(("{", "["))
    where = name if inline else text
    value = parse_json(text if inline else storage.read_text(text), where)
    if not isinstance(value, Mapping):
        return {"boxes": _boxes(value, where)}
    if "boxes" not in value:
        raise ConfigError(f'{where}: no "boxes" in it; expected {{"boxes": [[x, y, w, h], ...], "labels": [...]}}')
    unknown = [k for k in value if k not in ("boxes", "labels", "box_labels")]
    if unknown:
        raise ConfigError(f'{where}: unknown key "{unknown[0]}"; expected "boxes" and "labels"')
    out = {"boxes": _boxes(value["boxes"], where)}
    labels = value.get("labels", value.get("box_labels"))
    if labels is not None:
        out["box_labels"] = _labels(labels, len(out["boxes"]), where)
    return out


def _boxes(value: Any, where: str) -> Any:
    import numpy as np

    try:
        boxes = np.array(value, dtype=np.float64)  # as they are said: a corner may lie on the middle of two cells
        boxes = boxes.reshape(-1, 4) if value == [] else boxes
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where}: boxes: expected a list of [x, y, w, h], got {quoted(value, 60)}") from None
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ConfigError(f"{where}: boxes: expected a list of [x, y, w, h], got {quoted(value, 60)}")
    for i, (x, y, w, h) in enumerate(boxes.tolist()):
        inside = 0 <= x <= 1 and 0 <= y <= 1 and 0 < w <= 1 and 0 < h <= 1
        if not inside or x + w > 1.001 or y + h > 1.001:
            raise ConfigError(
                f"{where}: boxes[{i}]: [{x:g}, {y:g}, {w:g}, {h:g}] leaves the image; x, y, w, h are fractions of it, "
                "x and y of the upper left corner"
            )
    return boxes


def _labels(value: Any, count: int | None, where: str) -> Any:
    import numpy as np

    value = value if isinstance(value, list) else [value]
    for i, label in enumerate(value):
        if isinstance(label, bool) or not isinstance(label, int | str) or _beyond(label):
            raise ConfigError(f"{where}: labels[{i}]: expected a class number or name, got {quoted(label)}")
    if count is not None and len(value) != count:
        raise ConfigError(f"{where}: {count} boxes and {len(value)} labels; give one label for each box")
    return np.array(value, dtype=np.int64) if all(isinstance(v, int) for v in value) else list(value)


def _beyond(label: int | str) -> bool:
    return isinstance(label, int) and label.bit_length() > 62


def name_classes(
    inputs: Mapping[str, Any],
    class_names: Mapping[str, Sequence[str]],
    classes: Mapping[str, int] | None = None,
    palettes: Mapping[str, Palette] | None = None,
) -> dict[str, Any]:
    """Turn the user's classes into indices (:mod:`ldm_core.data.class_names`), each below the count, and label maps in
    colour into maps of classes.

    Raises :class:`ConfigError` with all mistakes, :class:`ldm_core.errors.DataError` for a colour without a class.
    """
    if "segmentation" in inputs:
        from ldm_core.data.palettes import with_classes

        inputs = with_classes(inputs, palettes or {})
    return class_indices(inputs, class_names, classes, said=True)


def require_readers(inputs: Iterable[str], reads: Mapping[str, Iterable[str]], fix: str = "") -> None:
    """Raise :class:`ConfigError` for an input without a conditioner; `reads`: conditioner -> its keys.

    `fix`: the remedy, if there is one.
    """
    taken = sorted({key for keys in reads.values() for key in keys})
    problems = []
    for key in inputs:
        if key not in taken:
            who = f"the conditioners read: {', '.join(taken)}" if taken else "the model has no conditioner"
            problems.append(f"input '{key}': nothing reads it{suggest(key, taken)} ({who}){fix}")
    if problems:
        raise ConfigError(problems)


def read_seeds(text: str | None) -> list[int] | None:
    """Read seeds such as ``1,2,3`` or ``7..10`` (both ends). :class:`ConfigError` for anything else."""
    if text is None:
        return None
    seeds: list[int] = []
    shown = clean(text, 60)
    for piece in text.split(","):
        first, dots, last = piece.strip().partition("..")
        if not all(number.isdecimal() and len(number) < 19 for number in ([first, last] if dots else [first])):
            raise ConfigError(f"--seeds {shown}: expected whole numbers such as 1,2,3 or a range such as 7..10")
        if dots and not int(first) <= int(last) < int(first) + 1_000_000:
            where = f"--seeds {shown}: '{clean(piece.strip(), 60)}'"
            raise ConfigError(f"{where} is no range of up to a million seeds, lower first")
        seeds += range(int(first), int(last) + 1) if dots else [int(first)]
    return seeds


def read_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """Read ``64``, ``48x64`` or ``48,64`` as (height, width); :class:`ConfigError` for anything else."""
    if text is None:
        return None
    parts = [p.strip() for p in text.replace("x", ",").split(",")]
    if len(parts) not in (1, 2) or not all(p.isdecimal() and len(p) < 7 and int(p) > 0 for p in parts):
        raise ConfigError(f"{option} {clean(text, 60)}: expected pixels such as 64, or height x width such as 48x64")
    return int(parts[0]), int(parts[-1])


def read_prompts(url: str | None) -> list[str]:
    """Read the prompts of a text file, one a line, without blank lines. :class:`ConfigError` if there is none."""
    if url is None:
        return []
    # split as every editor does, and not at U+2028 and the like, which are characters of a line
    text = _piped(url) if url == "-" or url.startswith(("/dev/stdin", "/dev/fd/")) else storage.read_text(url)
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise ConfigError(f"--prompts {url}: holds no prompt; write one a line")
    return prompts


def _piped(name: str) -> str:
    """Read standard input (``-``) or a shell's ``<(command)``, no file either."""
    import click

    try:
        with click.open_file(name, "rb") as file:
            data = file.read(_MOST_PIPED + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {name}: does not read ({error}); write UTF-8, one prompt a line") from None
    if len(data) > _MOST_PIPED:
        raise ConfigError(f"--prompts {name}: gives more than {_MOST_PIPED >> 20} MiB; write fewer prompts")
    return text
