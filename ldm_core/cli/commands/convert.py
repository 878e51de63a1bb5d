"""``ldm-run convert``: weights from one format to another."""

from __future__ import annotations

from typing import Any

import click

from ldm_core.cli.options import json_option, place_and_settings, weights_options


def _convert(given: tuple[list[str], list[str]], to: str, dtype: str | None, force_flag: bool, **options: Any) -> int:
    from ldm_core import storage
    from ldm_core.catalog import Catalog
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_core.errors import ConfigError
    from ldm_core.weights import open, write

    with reporting(bool(options["json_flag"])) as document, warnings_as_lines():
        if len(given[0]) < 2:
            raise ConfigError("convert: give two places, where the weights are and where they go: SRC DST --to FORMAT")
        source, target = given[0]
        catalog = Catalog.discover()
        catalog.get("codec", to)
        write.require_free(target, force_flag, (source, *filter(None, (options["first_stage"],))))
        wanted = open.Wanted.of(
            given[1],
            codec=options["codec"],
            sha256=options["sha256"],
            first_stage=options["first_stage"],
            partial=bool(options["partial_flag"]),
        )
        reading, own = split_options(wanted.options, to, catalog)
        opened = open.open_weights(source, catalog, wanted.reading_with(reading))
        if not options["json_flag"]:
            say("\n".join(recognised(opened)), wrap=True)
        weights = write.complete(opened.weights, catalog)
        if dtype is not None:
            weights = write.as_dtype(weights, dtype)
        from ldm_core.weights.codecs import make_codec

        made = make_codec(to, catalog, own).write(weights, storage.base_name(target))
        write.require_room(target, weights)
        files = write.put(made, target)
        document.update(
            status="done",
            out=storage.shown(target),
            to=to,
            source={
                "url": opened.url,
                "sha256": opened.sha256,
                "codec": opened.codec,
                "what": opened.found.what,
                "holds": opened.found.holds,
                "parameters": dict(opened.found.parameters),
                "notes": list(opened.weights.notes),
            },
            files=[{"path": storage.shown(url), "bytes": size} for url, size in files],
            notes=list(made.notes),
        )
        if not options["json_flag"]:
            say("\n".join(_done(target, files, made.notes)), wrap=True)
    return 0


def split_options(options: Any, to: str, catalog: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """``codec.KEY=VALUE`` for the reading and for the writing codec; what only the one that writes has is its alone."""
    import attrs

    fields = {field.name for field in attrs.fields(catalog.get("codec", to)[0].component.config)}
    others = {
        field.name
        for entry in catalog
        if entry.component.kind == "codec" and entry.component.name != to
        for field in attrs.fields(entry.component.config)
    }
    own = {key: value for key, value in options.items() if key in fields}
    return {key: value for key, value in options.items() if key not in fields or key in others}, own


def recognised(opened: Any) -> list[str]:
    """For people: what weights were recognised as, and what was chosen or left out."""
    counts = ", ".join(f"{part} {count:,}" for part, count in opened.found.parameters.items())
    lines = [f"{opened.url}: {opened.found.what} ({opened.codec})" + (f"; parameters: {counts}" if counts else "")]
    return lines + [f"  {note}" for note in opened.weights.notes]


def _done(target: str, files: list[tuple[str, int]], notes: Any) -> list[str]:
    from ldm_core import storage

    total = sum(size for _, size in files)
    what = "1 file" if len(files) == 1 else f"{len(files)} files"
    return [*(f"  {note}" for note in notes), f"{storage.shown(target)}: {what}, {total / 1e6:,.1f} MB"]


command = click.Command(
    "convert",
    params=[
        place_and_settings(2, "SRC DST [KEY=VALUE]..."),
        click.Option(
            ["--to"], required=True, metavar="CODEC", help="Format to write: ldm, diffusers, compvis, or a plugin's."
        ),
        click.Option(
            ["--dtype"],
            type=click.Choice(["fp32", "fp16", "bf16"]),
            help="Type of the numbers that are written.  [default: as they are]",
        ),
        *weights_options(),
        click.Option(["--force", "force_flag"], is_flag=True, help="Replace what is at DST, with all that it holds."),
        json_option(),
    ],
    callback=_convert,
    help=(
        "Convert the weights at SRC, a run's folder, one of our files, or weights of another program (a path or any "
        "fsspec URL), and write them to DST, whole or not at all. Says what they were recognised as and what the new "
        "format cannot carry. KEY=VALUE says what nothing else does (denoiser.heads=8); codec.KEY=VALUE are options of "
        "a format (codec.ema=false)."
    ),
    short_help="Weights from one format to another.",
)
