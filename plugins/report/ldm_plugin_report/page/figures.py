"""The pictures of a page: samples, previews over time, reconstructions. Each is enlarged by the page's script."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import attrs

from ldm_core.errors import LDMError
from ldm_plugin_report.page.html import Markup, join, picture, tag
from ldm_plugin_report.pictures import Shown, pairs, shown, spread
from ldm_plugin_report.run import Facts, Picture

_SMALL = 160  # pixels of a side up to which a picture's pixels stay sharp when it is enlarged
_FIGURES = re.compile(r"; sha256 [0-9a-f]+| \(\d+\)")  # of the words for a label map, and of classes by name
_MAP = re.compile(r"^map of \d+x\d+, classes ")
_QUIET = ("software", "recipe_sha256", "prompt", "seed")
_MODES = (("side", "side by side"), ("swipe", "swipe"), ("difference", "difference"))


@attrs.frozen
class Limits:
    """Numbers and bytes of a page's pictures, before base64."""

    samples: int = 64
    sample_bytes: int = 2_800_000
    previews: int = 24
    preview_bytes: int = 1_900_000
    pair_bytes: int = 1_000_000
    sheet_bytes: int = 500_000
    side: int = 768
    sheet_side: int = 1600

    def halved(self) -> Limits:
        """Half of the bytes, for a page grown too large."""
        sizes = {f.name: getattr(self, f.name) // 2 for f in attrs.fields(type(self)) if f.name.endswith("bytes")}
        return attrs.evolve(
            self, samples=max(8, self.samples * 2 // 3), previews=max(6, self.previews * 2 // 3), **sizes
        )


@attrs.frozen
class Loaded:
    """Pictures ready for the page; `lost`: the number of unreadable ones."""

    pictures: Sequence[tuple[Picture, Shown]]
    lost: int = 0


def loaded(found: Sequence[Picture], most: int, budget: int, side: int) -> Loaded:
    """At most `most` of the pictures within `budget` bytes; unreadable ones are counted."""
    chosen = spread(found, most)
    each = max(2000, budget // max(1, len(chosen)))
    kept, lost = [], 0
    for one in chosen:
        try:
            kept.append((one, shown(one.data(), "a picture", budget=each, side=side)))
        except LDMError:
            lost += 1
    return Loaded(kept, lost)


def condition(words: Shown) -> str:
    """The input of a sample in a line: its prompt, class, or other key."""
    found = words.words
    if found.get("prompt"):
        return found["prompt"]
    for key in ("class_label", "box_labels"):
        if found.get(key):
            return found[key]
    others = [f"{k}: {v}" for k, v in found.items() if k in ("segmentation", "boxes", "image", "mask", "embedding")]
    return "; ".join(others)[:300]


def caption(one: Shown) -> str:
    """As :func:`condition` for a reader: hashes, shapes and numbers of classes are left to the enlarged view."""
    found = one.words
    if found.get("prompt"):
        return found["prompt"]
    if found.get("class_label") or found.get("box_labels"):
        return _FIGURES.sub("", condition(one))
    if found.get("segmentation"):
        return _MAP.sub("map of ", _FIGURES.sub("", found["segmentation"]))[:300]
    return " and ".join(key for key in ("image", "mask", "boxes", "embedding") if found.get(key))


def image(one: Shown, alt: str, **attributes: object) -> Markup:
    """An image; a small one keeps its pixels sharp."""
    sharp = "sharp" if max(one.width, one.height) <= _SMALL else None
    return picture(one.src, alt[:300], one.width, one.height, class_=sharp, **attributes)


def card(one: Shown, title: str, below: str = "") -> Markup:
    """A picture with words below it, to be enlarged: the words of its metadata come along."""
    more = "; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in one.words.items() if k not in _QUIET and v)
    button = tag(
        "button",
        image(one, title or below or "picture"),
        type="button",
        class_="enlarge",
        aria_label=f"enlarge {title or below}",
    )
    said = tag(
        "figcaption",
        tag("span", title, class_="what") if title else None,
        tag("span", below, class_="quiet") if below else None,
    )
    return tag("figure", button, said, class_="card", data_more=more or None)


def samples(facts: Facts, limits: Limits) -> Markup | None:
    """The samples with prompt or other inputs, and seed; their sheet too if inputs are pictures themselves."""
    made = loaded(facts.samples, limits.samples, limits.sample_bytes, limits.side)
    cards = [
        card(one, caption(one), f"seed {one.words['seed']}" if "seed" in one.words else f"number {at.number}")
        for at, one in made.pictures
    ]
    seen = [one.words for _, one in made.pictures]
    drawn = any(key in words for words in seen for key in ("segmentation", "boxes", "image", "mask"))
    sheet = sheet_of(facts.sheet, limits, "all samples on one sheet, with their inputs") if drawn or not cards else None
    if not cards and sheet is None:
        return None
    note = f"{len(cards)} of {len(facts.samples)}" if len(cards) < len(facts.samples) else f"{len(cards)}"
    settings = _common(seen)
    head = tag("p", note + " samples" + (f", {settings}" if settings else ""), class_="quiet") if cards else None
    lost = tag("p", f"{made.lost} pictures do not read.", class_="quiet") if made.lost else None
    return join(head, tag("div", cards, class_="cards") if cards else None, lost, sheet)


def _common(seen: Sequence[object]) -> str:
    """The settings common to all samples."""
    words = [each for each in seen if isinstance(each, dict)]
    keys = ("sampler", "steps", "time_grid", "guidance", "preset", "precision")
    same = {k: {each.get(k, "") for each in words} for k in keys}
    return ", ".join(f"{k.replace('_', ' ')} {next(iter(v))}" for k, v in same.items() if len(v) == 1 and next(iter(v)))


def sheet_of(found: Picture | None, limits: Limits, title: str) -> Markup | None:
    """One large picture."""
    if found is None:
        return None
    made = loaded([found], 1, limits.sheet_bytes, limits.sheet_side).pictures
    return tag("div", card(made[0][1], title), class_="sheet") if made else None


def film(found: Sequence[Picture], limits: Limits, name: str) -> Markup | None:
    """Pictures over the steps of a training: a strip, and with the page's script one with a slider."""
    made = loaded(found, limits.previews, limits.preview_bytes, limits.sheet_side)
    if not made.pictures:
        return None
    frames = [
        tag("figure", card(one, f"step {at.number:,}"), class_="frame", data_step=at.number)
        for at, one in made.pictures
    ]
    if len(found) == 1:
        name = name.replace("previews", "preview")
    note = f"{len(frames)} of {len(found)} {name}" if len(frames) < len(found) else f"{len(frames)} {name}"
    return join(tag("p", note, class_="quiet"), tag("div", frames, class_="film", data_name=name))


def reconstructions(facts: Facts, limits: Limits) -> Markup | None:
    """Held-out pictures beside their reconstructions, to swipe over, and their difference."""
    if facts.reconstructions is None:
        return None
    size = facts.recipe.get("image_size")
    size = [size, size] if isinstance(size, int) else size
    found = []
    if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < 1 << 16 for n in size):
        try:
            data = facts.reconstructions.data()
            found = pairs(data, (size[0], size[1]), budget=limits.pair_bytes, side=limits.side)
        except LDMError:
            return tag("p", "reconstructions.png does not read.", class_="quiet")
    if not found:
        return sheet_of(facts.reconstructions, limits, "each picture with its reconstruction to its right")
    switches = [_switch(i, mode, name) for i, (mode, name) in enumerate(_MODES)]
    rows = [
        tag(
            "figure",
            image(pair.original, "original", data_side="original"),
            image(pair.made, "reconstruction"),
            class_="pair",
        )
        for pair in found
    ]
    note = tag(
        "p",
        "Held-out pictures; to their right, what the first stage makes of them. Differences are four times as strong.",
        class_="quiet",
    )
    return tag("div", switches, note, tag("div", rows, class_="pairs"), class_="recon")


def _switch(number: int, mode: str, name: str) -> Markup:
    own = f"recon-{mode}"
    radio = tag("input", type="radio", name="recon", id=own, class_=f"mode {mode}", checked=not number)
    return join(radio, tag("label", name, for_=own))


Section = Callable[[Facts, Limits], "Markup | None"]
