"""The Dockerfile against the repository: it copies what the wheels need, installs every sibling by path, runs as a
user. Nothing is built here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text on one line), comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines() if line.strip()]


def test_it_copies_what_the_build_needs() -> None:
    copied = {
        word for name, text in instructions() if name == "COPY" and "--from" not in text for word in text.split()[:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {"pyproject.toml", ".ci", "README.md", *project["license-files"], "ldm_core", "plugins", "conditioners"}
    assert needed <= copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in IGNORED, f".dockerignore keeps {name} out"
    assert IGNORED[1] == "*"


def test_siblings_are_installed_by_path_in_one_call() -> None:
    (call,) = [text for name, text in instructions() if name == "RUN" and " pip install" in text]
    assert '".[s3]" ./plugins/*/ ./conditioners/*/' in call
    for folder in ("plugins", "conditioners"):
        for child in (ROOT / folder).iterdir():
            if child.is_dir() and not child.name.startswith("."):
                assert (child / "pyproject.toml").is_file(), f"{child.name} would be installed and is no distribution"


def test_it_ends_as_a_user_who_is_not_root() -> None:
    users = [text for name, text in instructions() if name == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert [text for name, text in instructions() if name == "ENTRYPOINT"] == ['["ldm-run"]']


def test_images_have_plain_names() -> None:
    """The builder's own registry, or the mirror that it is told of; no host is written down."""
    stages = [text for name, text in instructions() if name == "FROM"]
    assert len(stages) == 2 and all(s.startswith("${BASE}") for s in stages)
    assert re.search(r"^ARG BASE=python:3\.\d+-slim$", TEXT, re.MULTILINE)
    assert not re.search(r"https?://", TEXT)
