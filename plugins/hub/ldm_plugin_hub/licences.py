"""The identifiers of licences for model cards, as the Hub lists them."""

from __future__ import annotations

from ldm_core.errors import ConfigError, clean, suggest

_LISTED = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0
    c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
    deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl
    lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail
    openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
IDS = frozenset(_LISTED.split())
OTHER = "other"


def require(licence: str, name: str, link: str) -> None:
    """ConfigError unless it is an identifier, and of another licence name and link are given."""
    if not licence:
        raise ConfigError(
            "--licence: say under which licence others may use the weights, by the Hub's id (mit, apache-2.0, "
            "cc-by-4.0, creativeml-openrail-m, ...), or as `other` with --licence-name and --licence-link; that of the "
            "data may decide"
        )
    if licence not in IDS:
        raise ConfigError(
            f"--licence: the Hub knows no '{clean(licence, 60)}'{suggest(licence, IDS)}; give one of its ids, or "
            "`other` with --licence-name and --licence-link"
        )
    if licence == OTHER and not (name and link):
        raise ConfigError("--licence other: give --licence-name and --licence-link as well")
    if licence != OTHER and (name or link):
        raise ConfigError(f"--licence-name and --licence-link belong to `other`; {licence} has both")
    if link and not link.startswith("https://") and link != "LICENSE":
        raise ConfigError(f"--licence-link: expected https://..., got '{clean(link, 60)}'")
