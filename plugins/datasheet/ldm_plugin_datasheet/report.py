"""A data sheet in lines for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ldm_core.errors import clean
from ldm_plugin_datasheet.counts.labels import unnamed
from ldm_plugin_datasheet.facts import Boxes, Captions, Classes, DataSheet, Fit, Key, Looked, Maps, Part, Pictures, Span

_LISTED = 12  # rows of a list; JSON has all
_SIZES, _WORDS, _DOUBLES, _FORMS = 4, 12, 3, 6
_CAPTION = 60  # letters of a quoted caption
_NAME, _WHY = 120, 160
_FEW = 10  # pictures of a class below which it is rare

Row = tuple[str, str]
"""The name of a fact, empty where the one before goes on, and its text."""


def rows(sheet: DataSheet) -> Iterator[Row]:
    """The facts of all data sets, row by row; a row without a name and text is an empty line."""
    for number, part in enumerate(sheet.parts):
        if number:
            yield "", ""
        yield from _part(part, sheet.seed)
    if sheet.lacks:
        yield "", ""
        yield from _listed("together", [f"no '{key}': {clean(why, _WHY)}" for key, why in sheet.lacks.items()])
    if sheet.checked:
        yield "", ""
        yield from _checked(sheet)


def _part(part: Part, seed: int) -> Iterator[Row]:
    held_out = "" if part.held_out is None else f", and {part.held_out:,} held out (val)"
    yield "data", f"{part.title} ({part.use}): {part.examples:,} pictures{held_out}"
    yield "looked at", _looked(part.looked, seed)
    yield "keys", ", ".join(_key(key, part.examples) for key in part.keys)
    yield from _pictures(part.pictures)
    if part.captions is not None:
        yield from _captions(part.captions, part.examples)
    for each in part.classes:
        yield from _classes("classes", each, "pictures")
    if part.boxes is not None:
        yield from _boxes(part.boxes)
    for maps in part.maps:
        yield from _maps(maps)
    yield from _unreadable(part)
    if part.remarks:
        yield "remarks", part.remarks


def _looked(looked: Looked, seed: int) -> str:
    counts = {"headers": looked.headers, "captions and labels": looked.values, "pictures": looked.pictures}
    counts["maps"] = looked.maps
    every = all(n in (0, looked.of) for n in counts.values())
    if every:
        return f"all {looked.of:,}"
    told = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    return f"{told}, of {looked.of:,}, drawn by seed {seed}"


def _key(key: Key, total: int) -> str:
    some = "" if key.have == total else f" ({key.have:,} of {total:,})"
    return f"{key.name}{some}" + (f" ({key.about})" if key.about and key.have else "")


def _pictures(found: Pictures) -> Iterator[Row]:
    total = sum(each.count for each in found.sizes)
    sizes = [f"{each.width}x{each.height}" + _times(each.count, found.headers) for each in found.sizes[:_SIZES]]
    more = found.distinct - len(sizes)
    yield "sizes", ", ".join(sizes) + (f" and {more:,} more" if more > 0 else "") + " (width x height)"
    if found.distinct > 1 and found.width and found.height and found.aspect:
        yield "", f"width {_span(found.width)}; height {_span(found.height)}"
        shapes = {"landscape": found.landscape, "portrait": found.portrait, "square": found.square}
        seen = sum(shapes.values())
        told = ", ".join(f"{name} {_share(n, seen)}" for name, n in shapes.items() if n)
        yield "aspect", f"{told}; width / height {_span(found.aspect)}"
    if found.forms:
        forms = list(found.forms.items())
        more = len(forms) - _FORMS
        said = ", ".join(f"{form}{_times(n, found.headers)}" for form, n in forms[:_FORMS])
        yield "files", said + (f" and {more} more" if more > 0 else "")
    if found.mean:
        yield "colour", _colour(found)
    if found.fit is not None and found.fit.times is not None and found.fit.lost is not None and total:
        yield from _fit(found.fit)


def _colour(found: Pictures) -> str:
    if found.grey:
        return f"grey; mean {found.mean[0]:.3f}, standard deviation {found.std[0]:.3f} (0 black, 1 white)"
    mean, std = (" ".join(f"{n:.3f}" for n in values) for values in (found.mean, found.std))
    return f"mean {mean}, standard deviation {std} (red, green, blue; 0 black, 1 white)"


def _fit(fit: Fit) -> Iterator[Row]:
    assert fit.times is not None and fit.lost is not None
    does = "is cut off" if fit.rule == "crop" else "of the image is padding"
    lost = "nothing " + does if fit.lost.most < 0.0005 else f"{_span(fit.lost, percent=True)} {does}"
    as_large = (
        "as large as the image" if fit.times.least == fit.times.most == 1 else f"{_span(fit.times)} times as large"
    )
    enlarged = f"; {fit.enlarged:,} of {fit.of:,} pictures are enlarged" if fit.enlarged else ""
    height, width = fit.size
    size = str(height) if height == width else f"[{height}, {width}]"
    yield "image_size", f"{size} {fit.recipe}: pictures are {as_large}; {fit.rule}: {lost}{enlarged}"


def _captions(found: Captions, total: int) -> Iterator[Row]:
    several = f", {found.several:,} of {found.pictures:,} pictures with several" if found.several else ""
    yield "captions", f"{found.texts:,} looked at{several}"
    if found.words and found.letters:
        yield "", f"words {_span(found.words)}; letters {_span(found.letters)}"
    odd = [f"{found.empty:,} empty"] if found.empty else []
    if found.doubled:
        quoted = [f"'{clean(text, _CAPTION)}' ({n:,})" for text, n in found.doubles[:_DOUBLES]]
        odd.append(f"{found.doubled:,} ({_share(found.doubled, found.texts)}) not unique: {', '.join(quoted)}")
    if odd:
        yield "", "; ".join(odd)
    if found.frequent:
        words = [f"{clean(word, 40)} {n:,}" for word, n in found.frequent[:_WORDS]]
        yield "words", f"{', '.join(words)} (captions that hold them)"


def _classes(name: str, found: Classes, things: str) -> Iterator[Row]:
    unseen = f", {found.unseen:,} of them not seen" if found.unseen else ""
    yield name, f"{found.of:,}{unseen}; {_ratio(found.imbalance)}"
    ranked = sorted(found.seen, key=lambda each: (-each.count, each.number))
    lines = [(each.name or unnamed(each.number), each.count) for each in ranked]
    head, tail = (lines, []) if len(lines) <= _LISTED else (lines[: _LISTED - 3], lines[-3:])
    yield (
        "",
        ", ".join(f"{clean(label, 60)} {n:,} ({_share(n, found.labels)})" for label, n in head)
        + (" ... " + ", ".join(f"{clean(label, 60)} {n:,}" for label, n in tail) if tail else ""),
    )
    if found.absent:
        more = found.unseen - len(found.absent)
        yield "", f"not seen: {', '.join(clean(n, 60) for n in found.absent)}" + (f" and {more:,} more" if more else "")
    rare = [each for each in found.seen if each.count < _FEW]
    if rare and len(rare) < len(found.seen):
        yield "", f"{len(rare):,} {'class' if len(rare) == 1 else 'classes'} with fewer than {_FEW} {things}"


def _ratio(imbalance: float) -> str:
    if imbalance < 1.05:
        return "equally frequent"
    return f"the most frequent {imbalance:.3g} times as often as the least frequent"


def _boxes(found: Boxes) -> Iterator[Row]:
    none = f"; {found.without:,} pictures have none" if found.without else ""
    many = f", {_span(found.in_picture)} a picture" if found.in_picture else ""
    yield "boxes", f"{found.boxes:,} in {found.pictures:,} pictures{many}{none}"
    if found.width and found.height and found.side:
        yield (
            "",
            f"width {_span(found.width, percent=True)} of the picture's, height {_span(found.height, percent=True)}",
        )
    if found.flat:
        yield "", f"{found.flat:,} have no area; they are left out of training"
    if found.classes is not None:
        yield from _classes("of boxes", found.classes, "boxes")


def _maps(found: Maps) -> Iterator[Row]:
    if not found.of:
        cover = "" if found.covered is None else f"; {_span(found.covered, percent=True)} of the area is not 0"
        yield found.key, f"{found.maps:,} looked at{cover}"
        return
    none = f"; {found.unlabeled:.1%} of the area has no class (255)" if found.unlabeled else ""
    here = "" if len(found.classes) == found.of else f", {len(found.classes):,} of them"
    yield found.key, f"{found.of:,} classes{here} in {found.maps:,} maps{none}"
    ranked = sorted(found.classes, key=lambda each: (-each.share, each.number))
    told = [
        f"{clean(each.name or unnamed(each.number), 60)} {each.share:.1%}"
        + ("" if each.maps == found.maps else f" (in {each.maps:,} maps)")
        for each in ranked[:_LISTED]
    ]
    more = len(ranked) - len(told)
    yield "", ", ".join(told) + (f" and {more:,} more" if more > 0 else "") + " (of the area)"


def _unreadable(part: Part) -> Iterator[Row]:
    if not part.unreadable:
        yield "unreadable", "none of those looked at"
        return
    yield "unreadable", f"{len(part.unreadable):,}, of those looked at"
    yield from _listed("", [f"{clean(each.name, _NAME)}: {clean(each.why, _WHY)}" for each in part.unreadable])


def _checked(sheet: DataSheet) -> Iterator[Row]:
    for need in sheet.needs:
        has = "all have it" if need.have == need.of else f"{need.have:,} of {need.of:,} have it"
        has = f"made by degradation '{need.made}'" if need.made else has
        why = f": {clean(need.why, 400)}" if need.why and not need.made else ""
        yield "needs", f"'{need.key}', by '{need.conditioner}': {has}{why}"
    if not sheet.problems:
        yield "a run", f"{sheet.checked}: would begin"
        return
    yield from _listed("a run", [f"{sheet.checked}: would stop", *(clean(text, 600) for text in sheet.problems)])


def _listed(name: str, lines: Sequence[str]) -> Iterator[Row]:
    for place, line in enumerate(lines[:_LISTED]):
        yield (name if not place else ""), line
    if len(lines) > _LISTED:
        yield "", f"and {len(lines) - _LISTED:,} more"


def _times(count: int, total: int) -> str:
    return "" if count == total else f" ({count:,})"


def _share(count: int, total: int) -> str:
    share = count / max(1, total)
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _span(span: Span, *, percent: bool = False) -> str:
    """``3 to 40, mostly 5 to 12, median 8``, or the one number there is."""

    def said(number: float) -> str:
        if percent:
            return f"{number:.0%}" if number >= 0.1 or not number else f"{number:.1%}"
        return f"{number:,.0f}" if number.is_integer() else f"{number:,.3g}"

    least, most = said(span.least), said(span.most)
    return least if least == most else f"{least} to {most} (median {said(span.median)})"


def lines(sheet: DataSheet, width: int = 0) -> list[str]:
    """The rows as aligned lines; with a `width`, texts go on below themselves."""
    from ldm_core.cli.output import wrapped

    found = list(rows(sheet))
    indent = max(len(clean(name, 24)) for name, _ in found) + 2
    out: list[str] = []
    for name, text in found:
        first, *more = wrapped(text, width - indent) if width > indent + 30 and text else [text]
        out.append(f"{clean(name, 24):<{indent}}{first}".rstrip())
        out += [" " * indent + line for line in more]
    return out
