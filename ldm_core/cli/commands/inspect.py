"""``ldm-run inspect PATH_OR_URL``: describe a file or folder of weights, without running or loading anything of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import command, option
from ldm_core.cli.options import Given, codec_option, json_option, places_and_settings, sha256_option


@attrs.frozen(kw_only=True)
class InspectOptions:
    """A file or folder of weights, and facts about it."""

    given: Given = places_and_settings(
        1, "PATH_OR_URL [KEY=VALUE]...", "The weights, and settings that overrule what is recognised."
    )
    codec: str = codec_option("Weights")
    sha256: str = sha256_option("Weights")
    hash: bool = option(False, "Print the SHA-256, which reads the whole file.", group="Weights")
    json: bool = json_option()


@command(
    InspectOptions,
    examples=["ldm-run inspect runs/demo/model.safetensors", "ldm-run inspect sd-v1-4.ckpt --hash"],
)
def inspect(options: InspectOptions) -> int:
    """Describe a file or folder of weights: container, tensors, parameters by part, averaged weights, metadata,
    and which model the installed codecs see in it, with the settings that nothing says. Nothing in it is run;
    values that are not finite (NaN) are named. What is remote is copied to LDM_CACHE first. KEY=VALUE settings
    overrule what is recognised, as in `ldm-run convert`."""
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_core.errors import ConfigError
    from ldm_core.weights import describe
    from ldm_core.weights.open import Wanted
    from ldm_core.weights.source import open_source

    places, settings = options.given.places, options.given.settings
    with reporting(options.json) as document, warnings_as_lines():
        if not places:
            raise ConfigError("inspect: nothing to inspect; give a file or folder of weights, by path or URL")
        wanted = Wanted.of(settings, codec=options.codec)
        source = open_source(places[0], wanted.given, sha256=options.sha256)
        found = describe.facts(source)
        found["recognised"] = describe.recognised(source, installed(), options.codec, wanted.options)
        if options.hash or options.sha256:
            found["sha256"] = source.sha256()
        document.update(found)
    if not options.json:
        say("\n".join(lines(found)))
    return 0


def lines(found: Mapping[str, Any]) -> list[str]:
    """Write the facts of :mod:`ldm_core.weights.describe` for people."""
    out = [f"{found['url']}" + ("" if not found["folder"] else " (a folder)")]
    if "sha256" in found:
        out.append(f"  SHA-256 {found['sha256']}")
    for each in found["files"]:
        out += ["", *_file(each)]
    if found.get("more_files"):
        out += ["", f"  ... and {found['more_files']} more files of tensors"]
    if found["folder"] and not found["files"]:
        out += ["", "  no files of tensors"]
    return [*out, "", *_recognised(found["recognised"])]


def _file(each: Mapping[str, Any]) -> list[str]:
    from ldm_core.cli.output import table

    name = f"{each['name']}: " if each["name"] else ""
    if "error" in each:
        return [f"  {name}does not read: {each['error']}"]
    types = ", ".join(f"{dtype} x {count:,}" for dtype, count in each["dtypes"].items())
    out = [f"  {name}{each['container']}, {each['tensors']:,} tensors of {size(each['bytes'])} ({types})"]
    rows = [(part, f"{values:>15,}") for part, values in each["parts"].items()]
    if each["averages"]["tensors"]:
        rows.append(("averaged weights (EMA)", f"{each['averages']['parameters']:>15,}"))
    out += table(rows, "    ")
    if each["metadata"]:
        out += ["    metadata:", *(f"      {key}: {value}" for key, value in each["metadata"].items())]
    if each["not_finite"]:
        named = [f"{name} ({count:,})" for name, count in list(each["not_finite"].items())[:6]]
        more = f" and {len(each['not_finite']) - 6} more" if len(each["not_finite"]) > 6 else ""
        out.append(f"    values that are not finite (NaN or infinite), by tensor: {', '.join(named)}{more}")
    if "unread" in each:
        out.append(f"    values that do not read: {each['unread']}")
    if each["ignored"]:
        listed = [f"{name} ({what})" for name, what in each["ignored"].items()]
        more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
        out.append(f"    not tensors, left out: {', '.join(listed[:6])}{more}")
    return out


def size(count: int) -> str:
    """Write bytes as ``512 bytes``, ``3.4 MB`` or ``7.7 GB``."""
    for unit, of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= of:
            return f"{count / of:.3g} {unit}"
    return f"{count} bytes"


def _recognised(found: Mapping[str, Any]) -> list[str]:
    from ldm_core.cli.output import table, wrapped

    if "error" in found:
        return wrapped(f"Not recognised: {found['error']}")
    out = [f"Recognised by '{found['codec']}': {found['what']}"]
    out += table([(part, f"{values:>15,}") for part, values in found["parameters"].items()], "    ")
    out.append(f"  averaged weights: {'yes' if found['averages'] else 'no'}")
    rows = [(key, text) for key, value in found["recipe"].items() if (text := _part(value))]
    if rows:
        out += ["  recipe:", *table(rows, "    ")]
    for path, candidates in found["unknown"].items():
        choices = ", ".join(map(_text, candidates))
        out += wrapped(
            f"not known: {path}; add {path}=VALUE ({choices})" if choices else f"not known: {path}", 100, "  "
        )
    for note in found["notes"]:
        out += wrapped(f"note: {note}", 100, "  ")
    return out


def _part(value: Any) -> str:
    """Write a part of a recipe in a line."""
    if isinstance(value, Mapping):
        fields = [f"{key}={_text(each)}" for key, each in value.items() if key not in ("use", "weights")]
        text = " ".join([str(value.get("use", "")), *fields]).strip()
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        text = "; ".join(map(_part, value))
    else:
        text = "" if value in ([], {}, None, "") else _text(value)
    return text if len(text) <= 150 else text[:147] + "..."


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    return {True: "true", False: "false", None: "null"}.get(value, str(value)) if _truth(value) else str(value)


def _truth(value: Any) -> bool:
    return value is None or isinstance(value, bool)
