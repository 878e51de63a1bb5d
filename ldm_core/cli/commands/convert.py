"""``ldm-run convert``: weights from one format to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import command, option, together
from ldm_core.cli.options import Given, WeightsOptions, force_option, json_option, places_and_settings

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog
    from ldm_core.weights.open import Opened

_OUTPUT = "Output"


@attrs.frozen(kw_only=True)
class ConvertOptions:
    """The weights, facts about them, and the format to write."""

    given: Given = places_and_settings(
        2, "SRC DST [KEY=VALUE]...", "The weights, where they go, and settings that say more of them."
    )
    to: str = option(
        None,
        "Format to write: ldm, diffusers, compvis, or a plugin's.",
        metavar="CODEC",
        required=True,
        group=_OUTPUT,
        completes="codec",
    )
    dtype: Literal["fp32", "fp16", "bf16"] | None = option(
        None, "Type of the numbers that are written.", group=_OUTPUT, otherwise="as they are"
    )
    force: bool = force_option("Replace what is at DST, with all that it holds.", _OUTPUT)
    weights: WeightsOptions = together(WeightsOptions, "Weights of other programs")
    json: bool = json_option()


@command(
    ConvertOptions,
    examples=[
        "ldm-run convert model.ckpt converted/ --to ldm",
        "ldm-run convert runs/demo pipeline/ --to diffusers --dtype fp16",
        "ldm-run convert unet.safetensors out/ --to ldm --first-stage vae/",
    ],
)
def convert(options: ConvertOptions) -> int:
    """Convert the weights at SRC, a run's folder, one of our files, or weights of another program (a path or any
    fsspec URL), and write them to DST, whole or not at all. Says what they were recognised as and what the new
    format cannot carry. KEY=VALUE says what nothing else does (denoiser.heads=8); codec.KEY=VALUE are options of
    a format (codec.ema=false)."""
    from ldm_core import storage
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_core.errors import ConfigError
    from ldm_core.weights import write

    with reporting(options.json) as document, warnings_as_lines():
        if len(options.given.places) < 2:
            raise ConfigError("convert: give two places, where the weights are and where they go: SRC DST --to FORMAT")
        source, target = options.given.places
        opened, own = _opened(source, target, options)
        if not options.json:
            say("\n".join(recognised(opened)), wrap=True)
        weights = write.complete(opened.weights, installed())
        if options.dtype is not None:
            weights = write.as_dtype(weights, options.dtype)
        made = write.written_by(options.to, weights, storage.base_name(target), installed(), own)
        write.require_room(target, weights)
        files = write.put(made, target)
        document.update(
            status="done",
            out=storage.shown(target),
            to=options.to,
            source=_source(opened),
            files=[{"path": storage.shown(url), "bytes": size} for url, size in files],
            notes=list(made.notes),
        )
        if not options.json:
            say("\n".join(_done(target, files, made.notes)), wrap=True)
    return 0


def _opened(source: str, target: str, options: ConvertOptions) -> tuple[Opened, dict[str, Any]]:
    """Open the weights; return the options of the writing codec beside them."""
    from ldm_core.weights import open, write

    catalog = installed()
    catalog.get("codec", options.to)
    write.require_free(target, options.force, (source, *filter(None, (options.weights.first_stage,))))
    wanted = options.weights.wanted(options.given.settings)
    reading, own = split_options(wanted.options, options.to, catalog)
    return open.open_weights(source, catalog, wanted.reading_with(reading)), own


def _source(opened: Opened) -> dict[str, Any]:
    return {
        "url": opened.url,
        "sha256": opened.sha256,
        "codec": opened.codec,
        "what": opened.found.what,
        "holds": opened.found.holds,
        "parameters": dict(opened.found.parameters),
        "notes": list(opened.weights.notes),
    }


def split_options(options: Mapping[str, Any], to: str, catalog: Catalog) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part ``codec.KEY=VALUE`` into the options of the reading codec and of the writing one.

    A key of both goes to both.
    """
    import attrs

    fields = {field.name for field in attrs.fields(catalog.get("codec", to)[0].component.config)}
    others = {
        field.name
        for entry, config in catalog.configs("codec")
        if entry.component.name != to
        for field in attrs.fields(config)
    }
    own = {key: value for key, value in options.items() if key in fields}
    return {key: value for key, value in options.items() if key not in fields or key in others}, own


def recognised(opened: Opened) -> list[str]:
    """Write the recognised model, and the notes on choices and omissions."""
    counts = ", ".join(f"{part} {count:,}" for part, count in opened.found.parameters.items())
    lines = [f"{opened.url}: {opened.found.what} ({opened.codec})" + (f"; parameters: {counts}" if counts else "")]
    return lines + [f"  {note}" for note in opened.weights.notes]


def _done(target: str, files: list[tuple[str, int]], notes: Sequence[str]) -> list[str]:
    from ldm_core import storage

    total = sum(size for _, size in files)
    what = "1 file" if len(files) == 1 else f"{len(files)} files"
    return [*(f"  {note}" for note in notes), f"{storage.shown(target)}: {what}, {total / 1e6:,.1f} MB"]
