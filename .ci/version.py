"""Writes a new version where it is kept and wherever else it has to stand: `python .ci/version.py 0.2.0`.

It is kept in `ldm_core/catalog/release.py`, from which it gets into every distribution that is built. It also stands in
the citation and over the latest changes, and the requirements that distributions of this repository have of one another
name the range of versions that fit together. Plugins that have a version of their own keep it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = re.compile(r"(\d+)\.(\d+)\.\d+((?:a|b|rc)\d+)?")
WRITTEN = {
    "ldm_core/catalog/release.py": r'^(VERSION = ")[^"\n]+(?=")',
    ".github/CITATION.cff": r"^(version: ).+$",
    "CHANGELOG.md": r"^(## )Unreleased$",
}
"""File -> the place of the version, after a group that stays."""
REQUIRING = ("pyproject.toml", "*/*/pyproject.toml", "ldm_core/cli/templates/*/pyproject.toml.tmpl", "docs/plugins.md")
RANGE = re.compile(r"\b(ldm-(?:core|plugin-[a-z-]+)>=)[\w.]+,<[\d.]+")


def fitting(match: re.Match[str]) -> str:
    """The range of versions that fit a version: those of its minor number, from itself on where it is a preview."""
    first = match[0] if match[3] else f"{match[1]}.{match[2]}"
    return f"{first},<{match[1]}.{int(match[2]) + 1}"


def main(root: Path, words: list[str]) -> int:
    """Write the version that `words` are into the files below `root` and print their names; the exit status."""
    match = VERSION.fullmatch(words[0]) if len(words) == 1 else None
    if match is None:
        print("python .ci/version.py VERSION: three numbers, such as 0.2.0 or 0.2.0rc1", file=sys.stderr)
        return 2
    changed: dict[Path, str] = {}
    for name, place in WRITTEN.items():
        before = (root / name).read_text(encoding="utf-8")
        changed[root / name], found = re.subn(place, rf"\g<1>{match[0]}", before, flags=re.MULTILINE)
        if not found and name != "CHANGELOG.md":
            print(f"{name}: no version in the known form; nothing was written", file=sys.stderr)
            return 1
    for pattern in REQUIRING:
        for file in root.glob(pattern):
            changed[file] = RANGE.sub(rf"\g<1>{fitting(match)}", file.read_text(encoding="utf-8"))
    for file, text in sorted(changed.items()):
        if text != file.read_text(encoding="utf-8"):
            file.write_text(text, encoding="utf-8")
            print(file.relative_to(root).as_posix())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(ROOT, sys.argv[1:]))
