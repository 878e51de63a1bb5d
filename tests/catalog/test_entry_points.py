"""Entry points read from folders, beside `importlib.metadata`'s; and what is not a folder."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from ldm_core.catalog import entry_points as module
from ldm_core.catalog.entry_points import EntryPoint, entry_points

GROUP = "made_up"


def _lay(folder: Path, text: str, *, name: str | None = "dist-a", file: str = "METADATA") -> None:
    folder.mkdir(parents=True)
    (folder / "entry_points.txt").write_text(text, encoding="utf-8")
    lines = "Metadata-Version: 2.1\n" + (f"Name: {name}\nVersion: 1.5\n" if name else "")
    (folder / file).write_text(f"{lines}Summary: s\n\nName: not-this\n", encoding="utf-8")


def _theirs(group: str) -> list[tuple[str, str]]:
    return [(p.name, p.value) for p in metadata.entry_points(group=group)]


def _ours(group: str) -> list[tuple[str, str]]:
    return [(p.name, p.value) for p in entry_points(group)]


@pytest.mark.parametrize("group", ["ldm_core", "console_scripts", "pytest11", "no_such_group"])
def test_they_are_those_of_the_standard_library(group: str) -> None:
    assert sorted(_ours(group)) == sorted(_theirs(group))
    for point in entry_points(group):
        theirs = metadata.distribution(point.distribution)
        assert point.version == theirs.version


def test_folders_of_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    odd = f"[other]\nno = other:thing\n\n[{GROUP}]\n# c = d\n a  =  json : loads \nb=os.path:join.x [extra]\n"
    _lay(first / "dist_a-1.5.dist-info", odd)
    _lay(second / "Dist.A-0.9.dist-info", f"[{GROUP}]\nold = json\n", name="Dist.A")
    _lay(second / "dist_b.egg-info", f"[{GROUP}]\nc = json\n", name="dist-b", file="PKG-INFO")
    _lay(second / "nameless-3.dist-info", f"[{GROUP}]\nd = json:decoder.JSONDecoder\n", name=None)
    (second / "alone-1.egg-info").write_text("Name: alone\n")
    (second / "bare-1.dist-info").mkdir()
    for folder in (tmp_path / "is not there", second, first):
        monkeypatch.syspath_prepend(str(folder))
    found = {point.name: point for point in entry_points(GROUP)}
    assert found == {
        "a": EntryPoint("a", "json : loads", "dist-a", "1.5"),
        "b": EntryPoint("b", "os.path:join.x [extra]", "dist-a", "1.5"),
        "c": EntryPoint("c", "json", "dist-b", "1.5"),
        "d": EntryPoint("d", "json:decoder.JSONDecoder", "?", "?"),
    }, "the distribution first on the path hides another of its name, however spelt"
    assert sorted(_ours(GROUP)) == sorted(_theirs(GROUP))
    import json

    assert found["a"].load() is json.loads and found["c"].load() is json
    assert found["d"].load() is json.decoder.JSONDecoder
    with pytest.raises(AttributeError):
        found["b"].load()
    _lay(first / "late-1.dist-info", f"[{GROUP}]\nlate = json\n", name="late")
    assert "late" in dict(_ours(GROUP)), "what was looked at a moment ago is looked at again"


def test_what_came_and_went_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a folder that was quiet for long, whose distributions without entry points are not looked at again."""
    without, egg = tmp_path / "without-1.dist-info", tmp_path / "plain.egg-info"
    without.mkdir()
    egg.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    os.utime(tmp_path, (1e9, 1e9))
    assert _ours(GROUP) == []
    read, plain = list[str](), module._read

    def noted(path: str) -> str:
        read.append(path)
        return plain(path)

    monkeypatch.setattr(module, "_read", noted)
    assert _ours(GROUP) == [] and not [path for path in read if path.startswith(str(without))]
    (egg / "entry_points.txt").write_text(f"[{GROUP}]\nc = json\n")  # as a build in place does, into the same folder
    assert _ours(GROUP) == [("c", "json")]
    _lay(tmp_path / "dist_a-1.dist-info", f"[{GROUP}]\na = json\n")
    assert sorted(_ours(GROUP)) == [("a", "json"), ("c", "json")]
    os.utime(tmp_path, (1e9 + 1, 1e9 + 1))
    assert len(_ours(GROUP)) == 2
    shutil.rmtree(tmp_path / "dist_a-1.dist-info")
    assert _ours(GROUP) == [("c", "json")]


def test_what_changed_in_place_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in files that were quiet for long, and were read before."""
    folder = tmp_path / "dist_a-1.dist-info"
    _lay(folder, f"[{GROUP}]\na = json\n")
    for place in (folder / "entry_points.txt", folder / "METADATA", tmp_path):
        os.utime(place, (1e9, 1e9))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [entry_points(GROUP) for _ in range(2)] == [[EntryPoint("a", "json", "dist-a", "1.5")]] * 2
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\nb = json\n")
    os.utime(folder / "entry_points.txt", (1e9 + 1, 1e9 + 1))
    (folder / "METADATA").write_text("Name: dist-a\nVersion: 1.50\n\n")
    os.utime(folder / "METADATA", (1e9, 1e9))
    assert entry_points(GROUP) == [EntryPoint("b", "json", "dist-a", "1.50")], "of another time, and of another size"


def test_what_lies_in_no_folder_is_left_to_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("packed-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: packed\nVersion: 2.0\n\n")
        archive.writestr("packed-2.0.dist-info/entry_points.txt", f"[{GROUP}]\nz = json:dumps\n")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path / "packed.zip"))
        assert entry_points(GROUP) == [EntryPoint("z", "json:dumps", "packed", "2.0")]
    assert not entry_points(GROUP)

    class Finder(metadata.DistributionFinder):
        def find_distributions(self, context: object = None) -> list[metadata.Distribution]:
            return [metadata.PathDistribution(tmp_path / "away-1.dist-info")]

    _lay(tmp_path / "away-1.dist-info", f"[{GROUP}]\nfar = json:dumps\n", name="away")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert entry_points(GROUP) == [EntryPoint("far", "json:dumps", "away", "1.5")]


def test_the_standard_library_is_asked_for_nothing_where_all_are_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", None)
    assert [point for point in entry_points("ldm_core") if point.name == "builtin"]
    assert "metadata" not in vars(module)
