"""One blind comparison: pairs of pictures of two runs in random order and on random sides, votes, their table."""

from __future__ import annotations

import csv
import io
import random
import secrets
import time
from collections import OrderedDict
from typing import Any, Literal

import attrs

from ldm_core import storage
from ldm_core.data import images
from ldm_core.errors import LDMError
from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models.shelf import Entry, Shelf
from ldm_plugin_serve.models.values import held
from ldm_plugin_serve.pairs.statistics import wilson

Choice = Literal["left", "right", "tie"]
CHOICES = ("left", "right", "tie")
MOST_PAIRS = 1000
_SESSIONS = 64
_COLUMNS = ("pair", "prompt", "left", "right", "choice", "preferred", "seconds")


@attrs.frozen
class Pair:
    """The files of a pair, `a` of the first run and `b` of the second; `swapped`: the second is on the left."""

    a: str
    b: str
    prompt: str
    swapped: bool


@attrs.define(eq=False)
class Session:
    """Pairs in their order of appearance, and the votes by pair with the seconds that each took."""

    a: Entry
    b: Entry
    seed: int
    pairs: list[Pair]
    shared: bool = True
    """False of two runs without a sample of the same input: pairs by the order of their files."""
    id: str = attrs.field(factory=lambda: secrets.token_urlsafe(12))
    votes: dict[int, tuple[Choice, float]] = attrs.field(factory=dict)
    shown: dict[int, float] = attrs.field(factory=dict)

    def picture_pair(self, number: int, limits: Limits) -> dict[str, Any]:
        """Both pictures without metadata, which would tell their models, and the prompt."""
        pair = self._pair(number)
        left, right = (pair.b, pair.a) if pair.swapped else (pair.a, pair.b)
        self.shown.setdefault(number, time.monotonic())
        return {"pair": number, "left": _plain(left, limits), "right": _plain(right, limits), "prompt": pair.prompt}

    def vote(self, number: object, choice: object) -> None:
        """Take a vote; another one on the same pair takes its place."""
        if isinstance(number, bool) or not isinstance(number, int):
            raise Fault("expected the number of a pair", "pair", allowed=[0, len(self.pairs) - 1])
        self._pair(number)
        if choice not in CHOICES:
            raise Fault("is none of the choices", "choice", allowed=CHOICES)
        seconds = time.monotonic() - self.shown.get(number, time.monotonic())
        found: Any = choice
        self.votes[number] = (found, seconds)

    def document(self) -> dict[str, Any]:
        """The state; the result once every pair has a vote."""
        said: dict[str, Any] = {"id": self.id, "count": len(self.pairs), "voted": len(self.votes)}
        said["shared"] = self.shared
        said["left"] = [n for n in range(len(self.pairs)) if n not in self.votes]
        if len(self.votes) == len(self.pairs):
            said["result"] = self.result()
        return said

    def result(self) -> dict[str, Any]:
        """Votes for each, and the share of `a` among decided ones with its interval of 95 %."""
        preferred = [self._preferred(number) for number in self.votes]
        a, b = preferred.count("a"), preferred.count("b")
        low, high = wilson(a, a + b)
        return {
            "a": self.a.id, "b": self.b.id, "votes": len(preferred), "for_a": a, "for_b": b,
            "ties": preferred.count("tie"), "share_a": a / (a + b) if a + b else None, "low": low, "high": high,
            "seed": self.seed,
        }  # fmt: skip

    def table(self) -> str:
        """All votes as CSV; texts that a spreadsheet would take for a formula get a quote in front."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for number, (choice, seconds) in sorted(self.votes.items()):
            pair = self.pairs[number]
            sides = (self.b.id, self.a.id) if pair.swapped else (self.a.id, self.b.id)
            name = {"a": self.a.id, "b": self.b.id, "tie": "tie"}[self._preferred(number)]
            prompt = "'" + pair.prompt if pair.prompt[:1] in ("=", "+", "-", "@", "\t", "\r") else pair.prompt
            writer.writerow([number, prompt, *sides, choice, name, f"{seconds:.2f}"])
        return out.getvalue()

    def _pair(self, number: int) -> Pair:
        if not 0 <= number < len(self.pairs):
            raise Fault("there is no such pair", "pair", status=404, allowed=[0, len(self.pairs) - 1])
        return self.pairs[number]

    def _preferred(self, number: int) -> str:
        choice = self.votes[number][0]
        if choice == "tie":
            return "tie"
        return "b" if (choice == "left") == self.pairs[number].swapped else "a"


class Sessions:
    """The last comparisons by id."""

    def __init__(self, shelf: Shelf, limits: Limits) -> None:
        self.shelf, self.limits = shelf, limits
        self._known: OrderedDict[str, Session] = OrderedDict()

    def begin(self, body: Any) -> Session:
        """``{"a", "b", "seed"?, "pairs"?}`` -> a new comparison."""
        if not isinstance(body, dict) or not body.keys() <= {"a", "b", "seed", "pairs"}:
            raise Fault("expected an object", "body", allowed=["a", "b", "seed", "pairs"])
        a, b = self.shelf.get(body.get("a")), self.shelf.get(body.get("b"))
        if a is b:
            raise Fault("a run is not compared with itself", "b", allowed=[e for e in self.shelf.entries if e != a.id])
        seed, most = body.get("seed"), body.get("pairs")
        seed = secrets.randbelow(1 << 31) if seed is None else seed
        most = MOST_PAIRS if most is None else most
        for name, value, low, high in (("seed", seed, 0, (1 << 53) - 1), ("pairs", most, 1, MOST_PAIRS)):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise Fault(f"expected a whole number from {low} to {high}", name, allowed=[low, high])
        made = Session(a, b, seed, *pairs_of(a, b, seed, most, self.limits))
        self._known[made.id] = made
        while len(self._known) > _SESSIONS:
            self._known.popitem(last=False)
        return made

    def get(self, name: str) -> Session:
        """The comparison of an id; :class:`Fault` if there is none."""
        if name not in self._known:
            raise Fault("there is no such comparison", "id", status=404)
        self._known.move_to_end(name)
        return self._known[name]


def pairs_of(a: Entry, b: Entry, seed: int, most: int, limits: Limits) -> tuple[list[Pair], bool]:
    """The samples of two runs in pairs: of one prompt, class and seed where both have them (True), else in their
    order."""
    first, second = _samples(a, limits), _samples(b, limits)
    both = [key for key in first if key in second]
    chosen = [(first[key], second[key]) for key in both] or list(zip(first.values(), second.values(), strict=False))
    if not chosen:
        raise Fault("both runs need samples: pictures in their folder samples", "a", status=409)
    draw = random.Random(seed)
    draw.shuffle(chosen)
    pairs = [
        Pair(one, other, prompt if prompt == theirs else "", draw.random() < 0.5)
        for (one, prompt), (other, theirs) in chosen[:most]
    ]
    return pairs, bool(both)


def _samples(entry: Entry, limits: Limits) -> OrderedDict[tuple[str, ...], tuple[str, str]]:
    """(prompt, class, seed, ...) -> a sample's URL and prompt, of as many as are read."""
    found: OrderedDict[tuple[str, ...], tuple[str, str]] = OrderedDict()
    folder = storage.join(entry.url, "samples") if storage.is_folder(entry.url) else ""
    if not folder or not storage.is_folder(folder):
        return found
    for file in sorted(storage.list_files(folder), key=lambda one: one.url)[:MOST_PAIRS]:
        if not file.url.endswith(".png"):
            continue
        try:
            about = images.png_metadata(held(storage.read_bytes(file.url), "sample", limits))
        except (LDMError, Fault, ValueError):
            continue
        key = tuple(about.get(name, "") for name in ("prompt", "class_label", "boxes", "segmentation", "image", "seed"))
        found[key] = (file.url, about.get("prompt") or about.get("class_label", ""))
    return found


def _plain(url: str, limits: Limits) -> str:
    """A picture's pixels as a new PNG, base64."""
    import base64

    data = held(storage.read_bytes(url), "sample", limits)
    return base64.b64encode(images.png_bytes(images.decode_image(data, 3, "sample"))).decode()
