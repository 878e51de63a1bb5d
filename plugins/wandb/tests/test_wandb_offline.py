"""What the observer logs offline, parsed back from the files that ``wandb sync`` would upload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb", reason="wandb is not installed (pip install ldm-plugin-wandb)")

from ldm_plugin_wandb import observer as observer_module
from ldm_plugin_wandb.config import WandbConfig
from ldm_plugin_wandb.observer import WandbObserver
from wandb.proto.wandb_internal_pb2 import Record

from ldm_core import storage
from ldm_core.contracts import Site
from ldm_core.errors import ConfigError, LDMError
from ldm_core.testing import ObserverSuite

_BLOCK = 32768
SITE = Site(size=(8, 8))


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


class _Story(ObserverSuite):
    """Its tale of a run, told to an observer."""

    component = "wandb"


def _records(data: bytes) -> Iterator[Any]:
    """The records of a ``.wandb`` file: LevelDB's log format after a header of 7 bytes (crc 4, length 2, type 1)."""
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0:
            break
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(parts)
            parts = b""


def _logged(data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the run says of itself, and the rows of its history."""
    run: dict[str, Any] = {}
    rows = []
    for record in _records(data):
        if record.WhichOneof("record_type") == "run":
            config = {u.key or u.nested_key[0]: json.loads(u.value_json) for u in record.run.config.update}
            run = {"id": record.run.run_id, "name": record.run.display_name, "project": record.run.project,
                   "config": run.get("config") or config}  # fmt: skip
        elif record.WhichOneof("record_type") == "history":
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
    return run, rows


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def test_numbers_pictures_and_the_recipe(tmp_path: Path) -> None:
    out = tmp_path / "faces"
    _Story().told(str(out))
    (file,) = _files(out)
    run, rows = _logged(file.read_bytes())
    assert (run["name"], run["project"]) == ("faces", "ldm-core")
    assert run["config"]["denoiser"] == {"use": "unet", "channels": 8}
    losses = [(r["denoiser/step"], r["denoiser/loss"]) for r in rows if "denoiser/loss" in r]
    assert losses == [(s, pytest.approx(1 / s)) for s in (2, 4, 6, 8)]
    assert [r["denoiser_validation/val_loss"] for r in rows if "denoiser_validation/step" in r] == [0.5]
    (row,) = [r for r in rows if "denoiser/samples/path" in r]
    assert (row["denoiser/samples/width"], row["denoiser/samples/height"]) == (24, 16)
    assert row["denoiser/samples/caption"] == "samples-00000004.png, step 4"
    assert (file.parent / "files" / row["denoiser/samples/path"]).is_file()


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    _Story().told(str(tmp_path), end="interrupted")
    _Story().told(str(tmp_path), start=2)
    first, second = (_logged(f.read_bytes())[0] for f in _files(tmp_path))
    assert first["id"] == second["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]


def test_a_damaged_id_begins_another_run(tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text("{}")
    with pytest.warns(UserWarning, match="is damaged; a new run"):
        observer = WandbObserver(WandbConfig(mode="offline"), SITE)
        observer.ldm_run_start({}, str(tmp_path))
    observer.ldm_run_end("done")
    assert len(json.loads((tmp_path / "wandb.json").read_text())["id"]) == 12


@pytest.mark.parametrize("text", ['{"project": "mine"}', "no JSON", "[1, 2]"])
def test_a_file_of_that_name_that_holds_no_id_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / "wandb.json").write_text(text)
    with pytest.warns(UserWarning, match="is damaged; a new run"):
        assert len(observer_module._identity(str(tmp_path))) == 12
    assert (tmp_path / "wandb.json").read_text() == text


def test_a_run_at_a_url_has_its_files_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    out = "memory://wandb-url/run"
    _Story().told(out)
    found = [f.url for f in storage.list_files(out, recursive=True)]
    (file,) = [url for url in found if url.endswith(".wandb")]
    run, rows = _logged(storage.read_bytes(file))
    assert run["name"] == "run" and len([r for r in rows if "denoiser/loss" in r]) == 4
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("ldm-wandb-")], "the local files are gone"


def test_online_needs_a_key(tmp_path: Path) -> None:
    """Said when the run is prepared, not after the first stage; and auto without a key needs no network."""
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        WandbObserver(WandbConfig(mode="online"), SITE)
    observer = WandbObserver(WandbConfig(folder="memory://nowhere"), SITE)
    with pytest.raises(LDMError, match="needs a local folder"):
        observer.ldm_run_start({}, str(tmp_path))


def test_the_command_line_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ldm-run", "dataset.url=https://somebody:a-secret@example.com/x.tar"])
    _Story().told(str(tmp_path))
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"a-secret" not in path.read_bytes(), path
