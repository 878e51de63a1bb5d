"""``ldm-run data``: a look into data before a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import attrs

from ldm_core.cli import command, installed, option
from ldm_core.cli.options import Given, force_option, json_option, places_and_settings, quiet_option

if TYPE_CHECKING:
    from ldm_plugin_datasheet.examples import Tell
    from ldm_plugin_datasheet.facts import DataSheet
    from ldm_plugin_datasheet.opened import Asked

_MOST = 64  # data sets that are looked into together


@attrs.frozen(kw_only=True)
class DataOptions:
    """The data, the look, and the run to begin with it."""

    given: Given = places_and_settings(
        _MOST,
        "PATH|URL|NAME... [KEY=VALUE]...",
        "Folders, tars or URL patterns, or data sets by name; several as a mixture; settings of the recipe.",
    )
    data: tuple[str, ...] = option(
        (), "Data by an option, as a run takes it; repeat to mix.", metavar="NAME|URL", completes="dataset"
    )
    everything: bool = option(False, "Look at every example; by itself at some of them.", flags=["--all"], group="Look")
    seed: int = option(0, "Seed of the draw of those that are looked at.", metavar="N", minimum=0, group="Look")
    recipe: str | None = option(
        None, "Hold this recipe to the data.", metavar="NAME|URL", group="Look", completes="recipe"
    )
    cond: tuple[str, ...] = option(
        (), "Hold a conditioner to the data; repeat for several.", metavar="NAME", group="Look", completes="conditioner"
    )
    sheet: str = option(
        "",
        "Draw 64 pictures, with captions, boxes, maps and made inputs, into this file.",
        metavar="FILE.png",
        group="Sheet",
        otherwise="none",
        completes="file",
    )
    force: bool = force_option("Overwrite the file of --sheet, though it is no such sheet.", "Sheet")
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")


@command(
    DataOptions,
    examples=[
        "ldm-run data photos/ --sheet photos.png",
        'ldm-run data "s3://bucket/train-{000000..000031}.tar" --cond text --json',
        "ldm-run data photos/ image_size=256 dataset.read='{caption: title}' --all",
    ],
)
def data(options: DataOptions) -> int:
    """Look into data before a run: pictures, their sizes, modes and colour, captions, classes, boxes, label maps, and
    unreadable files by name. With --cond, --recipe or settings of a recipe also the keys lacking for that run; the exit
    code is 2 if it would stop."""
    import sys

    from ldm_core.cli.output import reporting, say, warnings_as_lines, width_of
    from ldm_plugin_datasheet.opened import Asked
    from ldm_plugin_datasheet.report import lines

    asked = Asked(
        data=(*options.given.places, *options.data),
        recipe=options.recipe,
        cond=options.cond,
        settings=tuple(options.given.settings),
    )
    with reporting(options.json) as document, warnings_as_lines(most=3):
        found, drawn = _looked(asked, options)
        document.update(status="done", sheet=drawn or None, **found.plain())
        if not options.json:
            for line in lines(found, width_of(sys.stdout)):
                say(line, longest=4096)
            if drawn:
                say(drawn, longest=4096)
    return 2 if found.problems else 0


def _looked(asked: Asked, options: DataOptions) -> tuple[DataSheet, str]:
    """Survey the data, and draw the sheet if one is asked for: its place, or ""."""
    from ldm_core import storage
    from ldm_core.cli.flags import in_flags
    from ldm_plugin_datasheet.drawing import file
    from ldm_plugin_datasheet.drawing.made import Made
    from ldm_plugin_datasheet.opened import opened
    from ldm_plugin_datasheet.survey import surveyed

    if options.sheet:
        file.require(options.sheet, force=options.force)
    catalog = installed()
    plain = asked.plain(catalog)
    with _progress(options) as tell:
        sets = opened(plain, catalog)
        found = surveyed(sets, asked, plain, catalog, seed=options.seed, everything=options.everything, tell=tell)
        if options.sheet:
            made = partial(Made.of, plain, catalog)
            _warn(file.write(options.sheet, sets, seed=options.seed, tell=tell, made=made))
    found = attrs.evolve(found, problems=tuple(map(in_flags, found.problems)))
    return found, storage.shown(options.sheet) if options.sheet else ""


@contextlib.contextmanager
def _progress(options: DataOptions) -> Iterator[Tell]:
    """Show the looks as bars on a terminal; elsewhere as lines, of a look at everything."""
    import sys

    from ldm_core.cli.progress import Progress

    quiet = options.quiet or not (sys.stderr.isatty() or options.everything)
    bar, running = Progress(quiet=quiet, unit="examples"), [""]

    def tell(name: str, done: int, count: int) -> None:
        if name != running[0]:
            bar.ldm_stage_start(name, count, 0)
            running[0] = name
        if done % max(1, count // 200) == 0:
            bar.ldm_step(name, done, {})

    try:
        yield tell
    finally:
        bar.close()


def _warn(letters: set[str]) -> None:
    """Name the letters drawn as empty boxes."""
    import warnings

    if letters:
        few = ", ".join(f"U+{ord(letter):04X}" for letter in sorted(letters)[:5])
        warnings.warn(
            f"no font here has {len(letters):,} of the letters in captions ({few}); the sheet shows boxes in their "
            "place; install a font with them, such as Noto Sans CJK",
            UserWarning,
            stacklevel=2,
        )
