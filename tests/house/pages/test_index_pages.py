"""The metadata that distributions are built with: one version, and a text whose links work on the page of an index."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from source_tree import ROOT

import ldm_core

FOLDERS = [".", *(p.parent.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob("[pc]*/*/pyproject.toml")))]
URL = "https://forge.example/group/ldm-core"
pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed (extra 'dev')")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def distribution() -> ModuleType:
    return script("distribution")


def built(folder: str) -> Any:
    """The fields of a distribution as hatchling has them for a wheel, `.ci/distribution.py` asked as in a build."""
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    return ProjectMetadata(str(ROOT / folder), PluginManager()).core


def targets(text: str) -> Iterator[str]:
    """The addresses of a text's links and pictures, as a reader of Markdown finds them; HTML would go unseen."""
    for token in MarkdownIt().enable("table").parse(text):
        assert token.type != "html_block", token.content
        for child in token.children or ():
            assert child.type != "html_inline", child.content
            if child.type in ("link_open", "image"):
                yield str(child.attrs["href" if child.type == "link_open" else "src"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_link_of_a_wheels_text_is_relative(folder: str) -> None:
    core = built(folder)
    assert core.version == ldm_core.__version__
    assert core.readme_content_type == "text/markdown"
    assert not [target for target in targets(core.readme) if not target.startswith("https://")]
    words = (ROOT / folder / "README.md").read_text(encoding="utf-8").split("](")[0].rpartition("[")[2].strip("!")
    assert words in core.readme, "a link that cannot work is its text"


@pytest.mark.parametrize("folder", FOLDERS)
def test_with_an_address_every_link_leads_to_its_file(
    folder: str, distribution: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "release", lambda: ("1.2.3", URL))
    made = distribution.fields(ROOT / folder)
    readme = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    before, after = list(targets(readme)), list(targets(made["readme"]["text"]))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        if old.startswith("https://"):
            assert new == old
            continue
        kind = "raw" if old.endswith(".png") else "blob"
        path, _, anchor = old.partition("#")
        head, _, rest = new.partition(f"/{kind}/v1.2.3/")
        assert head == URL and rest.partition("#")[2] == anchor
        assert (ROOT / rest.partition("#")[0]).samefile(ROOT / folder / (path or "README.md"))
    assert set(made["urls"].values()) == {URL, f"{URL}/tree/v1.2.3/docs", f"{URL}/blob/v1.2.3/CHANGELOG.md"}


@pytest.mark.parametrize(
    ("text", "plain", "whole"),
    [
        ("see [a `b[0]`](c.md#d).", "see a `b[0]`.", "see [a `b[0]`](U/blob/c.md#d)."),
        ("[![words](x.png)](y.md)", "*words*", "[![words](U/raw/x.png)](U/blob/y.md)"),
        ("[![w](https://h/x.svg)](y.md)", "![w](https://h/x.svg)", "[![w](https://h/x.svg)](U/blob/y.md)"),
        ("`[a](b)` and ``[`a`](b)``", "`[a](b)` and ``[`a`](b)``", "`[a](b)` and ``[`a`](b)``"),
        ("    [a](b)\n[a](b)", "    [a](b)\na", "    [a](b)\n[a](U/blob/b)"),
        ("```\n[a](b)\n```\n[a](b)", "```\n[a](b)\n```\na", "```\n[a](b)\n```\n[a](U/blob/b)"),
        (
            "[a](#b), [m](mailto:m@x), ![](p.png)",
            "a, [m](mailto:m@x), ",
            "[a](U/blob/#b), [m](mailto:m@x), ![](U/raw/p.png)",
        ),
    ],
)
def test_links_become_text_or_addresses(distribution: ModuleType, text: str, plain: str, whole: str) -> None:
    assert distribution.index_text(text, lambda target, kind: None) == plain
    assert distribution.index_text(text, lambda target, kind: f"U/{kind}/{target}") == whole


BUILD = """
import os, sys
from hatchling import build
os.chdir(sys.argv[1])
build.build_sdist(sys.argv[2]) if sys.argv[3] == "sdist" else build.build_wheel(sys.argv[2])
"""


def build(folder: Path, out: Path, what: str) -> Path:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    line = [sys.executable, "-c", BUILD, str(folder), str(out), what]
    subprocess.run(line, env=environment, check=True, capture_output=True, text=True, timeout=120)
    (made,) = out.glob("*.tar.gz" if what == "sdist" else "*.whl")
    return made


@pytest.mark.parametrize("folder", ["plugins/metrics", "."])
def test_a_source_archive_builds_the_same_wheel_where_nothing_else_is(folder: str, tmp_path: Path) -> None:
    archive = build(ROOT / folder, tmp_path, "sdist")
    with tarfile.open(archive) as held:
        held.extractall(tmp_path / "alone", filter="data")
    (alone,) = (tmp_path / "alone").iterdir()
    project = tomllib.loads((alone / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "dynamic" not in project and project["version"] == ldm_core.__version__
    assert (alone / project["readme"]).read_text(encoding="utf-8") == built(folder).readme
    (alone / "PKG-INFO").unlink()  # no more than any other build backend would read
    wheels = [build(place, tmp_path / name, "wheel") for name, place in (("a", alone), ("b", ROOT / folder))]
    first, second = ({i.filename: (i.CRC, i.file_size) for i in zipfile.ZipFile(wheel).infolist()} for wheel in wheels)
    assert first == second


def test_other_forms_of_metadata_are_refused(distribution: ModuleType) -> None:
    text = (ROOT / "plugins/cfg/pyproject.toml").read_text(encoding="utf-8")
    made: dict[str, Any] = {"version": "1.2.3", "urls": {"Repository": URL}}
    assert tomllib.loads(distribution.static(text, made))["project"]["urls"] == {"Repository": URL}
    with pytest.raises(ValueError, match="as in the other distributions"):
        distribution.static(text.replace("dynamic = [", "dynamic=["), made)


def required(folder: Path) -> list[Requirement]:
    """What the distributions below a folder require of one another."""
    found = []
    for file in folder.glob("[pcte]*/*/pyproject.toml"):
        for line in tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]:
            if line.startswith("ldm-"):
                found.append(Requirement(line))
    return found


def test_one_command_writes_a_new_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = script("version")
    held = [
        *version.WRITTEN,
        "docs/plugins.md",
        "pyproject.toml",
        "ldm_core/cli/templates/every_kind/pyproject.toml.tmpl",
    ]
    held += [p.relative_to(ROOT).as_posix() for p in ROOT.glob("[pcte]*/*/pyproject.toml")]
    for name in held:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in held}
    assert len(required(tmp_path)) > len(FOLDERS)
    for new, other in (("0.7.1", "0.8.0"), ("1.4.0rc2", "1.4.0rc1")):
        assert version.main(tmp_path, [new]) == 0
        assert all(r.specifier.contains(new) and not r.specifier.contains(other) for r in required(tmp_path))
        assert f"version: {new}\n" in (tmp_path / ".github/CITATION.cff").read_text(encoding="utf-8")
        assert f'VERSION = "{new}"\n' in (tmp_path / "ldm_core/catalog/release.py").read_text(encoding="utf-8")
    assert "## 0.7.1\n" in (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    own = "examples/custom_conditioner/pyproject.toml"
    assert 'version = "0.1.0"' in (tmp_path / own).read_text(encoding="utf-8"), "a plugin of someone's keeps its own"
    capsys.readouterr()
    assert version.main(tmp_path, ["1.0"]) == 2 and version.main(tmp_path, []) == 2
    assert "three numbers" in capsys.readouterr().err
    assert version.main(tmp_path, [ldm_core.__version__]) == 0
    changed = {name for name in held if (tmp_path / name).read_bytes() != before[name]}
    assert changed == {"CHANGELOG.md"}
