"""``ldm-run data``: text, JSON, exit codes, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import odd_pictures
import pytest
from ldm_plugin_datasheet.drawing.made import Made
from ldm_plugin_datasheet.drawing.picks import picks
from ldm_plugin_datasheet.opened import Asked, opened
from PIL import Image

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.testing import PluginSuite

CATALOG = Catalog.discover()


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-datasheet"


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """Stdout and stderr of a command that ends with `code`."""
    assert main(["data", *map(str, arguments)]) == code
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return found.out, found.err


def test_text_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = odd_pictures.folder(tmp_path / "photos")
    text, err = said(capsys, at)
    assert not err
    for line in (
        f"data        {at} (folder): 12 pictures",
        "looked at   all 12",
        "sizes       48x32 (width x height)",
        "files       PNG RGB",
        "            cat 8 (67%), dog 4 (33%)",
        "unreadable  none of those looked at",
        "pictures are as large as the image; crop: 33% is cut off",
    ):
        assert line in text, line
    document = json.loads(said(capsys, "--data", at, "--json")[0])
    assert document["status"] == "done" and document["sheet"] is None and document["format"] == 1
    assert document["parts"][0]["classes"][0]["seen"][0] == {"number": 0, "name": "cat", "count": 8}


def test_a_run_that_would_stop_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = odd_pictures.folder(tmp_path / "photos", captions=False)
    text, _ = said(capsys, at, "--cond", "text", code=2)
    assert "needs       'caption', by 'text': 0 of 12 have it: " in text and "with text: would stop" in text
    document = json.loads(said(capsys, at, "--cond", "text", "--json", code=2)[0])
    assert document["needs"][0]["have"] == 0 and document["problems"]
    text, _ = said(capsys, at, "--cond", "class_label", "trainer.steps=3")
    assert "needs       'class_label', by 'class_label': all have it" in text and "would begin" in text


def test_inputs_that_a_recipe_makes_are_no_lack_and_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at, sheet = odd_pictures.folder(tmp_path / "photos"), tmp_path / "sheet.png"
    for name, makes, key in (("masked_image", "half", "mask"), ("low_resolution", "bicubic", "image")):
        settings = [f"conditioners.{name}.degradation={makes}", "guidance=none", "image_size=32"]
        arguments = [at, "--cond", name, *settings, "--sheet", sheet]
        text, _ = said(capsys, *arguments)
        assert "would begin" in text
        assert ("needs       'mask', by 'masked_image': made by degradation 'half'" in text) == (key == "mask")
        # beside the picture, as it is fitted: its half that is the hole, or a small version
        sets = opened(Asked(data=(at,)).plain(CATALOG), CATALOG)
        plain = Asked(data=(at,), cond=(name,), settings=tuple(settings)).plain(CATALOG)
        made = Made.of(plain, CATALOG, sets[0].dataset)
        assert made is not None
        (pick, *_) = picks(sets[0].dataset, 2, 0, beside=made.panels)
        (panel,) = pick.panels
        assert panel.key == f"made {key}" and panel.picture is not None
        shown = np.asarray(panel.picture)
        assert shown.shape == ((32, 32, 3) if key == "mask" else (8, 8, 3))
        assert (np.mean((shown == (235, 60, 150)).all(-1)) == 0.5) == (key == "mask")
        width = Image.open(sheet).width
        said(capsys, at, "--sheet", sheet)
        assert Image.open(sheet).width < width


def test_what_does_not_read_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = odd_pictures.folder(tmp_path / "photos", captions=False)
    odd_pictures.spoil(f"{at}/cat")
    (tmp_path / "photos" / "cat" / "esc\x1b[31m.png").write_bytes(b"x")
    text, _ = said(capsys, at)
    assert "unreadable  6, of those looked at" in text and "cat/bomb.png: more than 100,000,000 pixels" in text
    assert "\x1b" not in text and "esc\\x1b[31m.png" in text


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("no pictures")
    (tmp_path / "broken.tar").write_bytes(b"\x07" * 5000)
    whole = Path(odd_pictures.tar(tmp_path / "cut.tar")).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 - 100])
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(3):
        (texts / f"{number}.png").write_text("no picture")
    for arguments, words in (
        ([], "nothing to look into"),
        ([tmp_path / "empty"], "an empty folder"),
        ([tmp_path / "notes"], "no pictures; looked for"),
        ([tmp_path / "broken.tar"], "not a plain tar file"),
        ([tmp_path / "cut.tar"], "the tar is cut off"),
        ([texts], "none of the 3 pictures looked at can be read; first: 0.png"),
        ([tmp_path / "nowhere"], "no such file or folder"),
        (["shapez"], "did you mean 'shapes'"),
        (["shapes", "--sheet", tmp_path / "a.jpg"], "the sheet is a PNG"),
        (["shapes", "dataset.countt=3"], "countt"),
        ([odd_pictures.tar(tmp_path / "a-val-000.tar")], "looked into with dataset.split=NAME"),
    ):
        out, err = said(capsys, *arguments, code=2)
        assert not out and err.count("\n") == 1 and err.startswith("error: ") and words in err, (arguments, err)
    document = json.loads(said(capsys, tmp_path / "empty", "--json", code=2)[0])
    assert document["status"] == "error" and len(document["problems"]) == 1


def test_it_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; from ldm_core.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "data", odd_pictures.folder(tmp_path / "a"), "--cond", "class_label"]
    done = subprocess.run([*command, "--sheet", str(tmp_path / "a.png")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
