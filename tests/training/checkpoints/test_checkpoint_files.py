"""Checkpoints as files: written in the background, whole or not at all; the newest whole one is found."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from ldm_core import storage
from ldm_core.errors import CheckpointError, StorageError
from ldm_core.training.checkpoints import files
from ldm_core.training.checkpoints.writer import Writer, _Hashed

STATE = {
    "model/state/a": torch.arange(6.0).view(2, 3),
    "model/state/flag": torch.tensor([True, False, True]),
    "model/state/half": torch.arange(5, dtype=torch.bfloat16),
    "model/state/text": torch.arange(7, dtype=torch.uint8),
    "model/state/none": torch.zeros(0, 4),
    "ema/a": torch.full((2, 3), 0.5, dtype=torch.float64),
    "task/count": torch.tensor(3),
}
MANIFEST = {"identity": "me", "part_steps": {"model": 1}, "ema_updates": 1}


def writer(folder: str, **changes: Any) -> Writer:
    return Writer(folder, **{"keep": 2, "keep_every": 0, "background": False, **changes})


def write(target: Writer, *steps: int, tensors: dict[str, Tensor] | None = None) -> None:
    for step in steps:
        target.start(step, tensors or STATE, MANIFEST)
        target.wait()
        outcome = target.outcome()
        assert outcome is not None and outcome.step == step
        if outcome.error is not None:
            raise outcome.error


def steps(folder: str) -> list[int | None]:
    return [files.step_of(name) for name in files.listed(folder)[0]]


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "checkpoints") if request.param == "local" else f"memory://ckpt-{tmp_path.name}"


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_the_stream_is_a_safetensors_file() -> None:
    """Read by the library itself; the hash is of what was written."""
    file = io.BytesIO()
    sent = _Hashed(STATE)
    sent(file)
    assert equal(load(file.getvalue()), STATE)
    assert sent.digest == hashlib.sha256(file.getvalue()).hexdigest() and sent.size == len(file.getvalue())
    sent(again := io.BytesIO())  # a write that is tried again
    assert again.getvalue() == file.getvalue()


@pytest.mark.parametrize("shard", [1 << 30, 40])
def test_what_is_written_is_found(folder: str, shard: int) -> None:
    write(writer(folder, shard=shard), 7)
    found = files.newest(folder, "me").found
    assert found is not None and found.step == 7 and found.manifest["part_steps"] == {"model": 1}
    assert equal(dict(found.tensors()), STATE)
    assert len(found.manifest["files"]) == (1 if shard > 40 else 4)  # 37, 7, 48 and 8 bytes
    for name, entry in found.manifest["files"].items():
        data = storage.read_bytes(storage.join(found.url, name))
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_the_newest_and_every_nth_stay(folder: str) -> None:
    target = writer(folder, keep=2, keep_every=4)
    write(target, *range(1, 11))
    assert steps(folder) == [10, 9, 8, 4]
    again = writer(folder, keep=1, keep_every=4, known=files.listed(folder)[0])
    write(again, 11)
    assert steps(folder) == [11, 8, 4]


def test_a_name_is_never_used_twice(folder: str) -> None:
    write(writer(folder, keep=5), 3, 3, 3)
    assert steps(folder) == [3, 3, 3]


def _cut(url: str) -> None:
    storage.atomic_write(url, storage.read_bytes(url)[:-7])


def _flip(url: str) -> None:
    data = bytearray(storage.read_bytes(url))
    data[-1] ^= 1
    storage.atomic_write(url, bytes(data))


DAMAGE: dict[str, tuple[str, Callable[[str], None], str]] = {
    "cut": ("state-00000.safetensors", _cut, r"state-00000.safetensors has \d+ bytes, its manifest says \d+"),
    "flipped": ("state-00000.safetensors", _flip, "the content of state-00000.safetensors does not match its manifest"),
    "gone": ("state-00000.safetensors", storage.remove, "state-00000.safetensors is missing"),
    "half": ("manifest.json", _cut, "its manifest does not read"),
    "other": ("manifest.json", lambda url: storage.atomic_write(url, '{"format": 2}'), "its manifest does not read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_named_passed_over_and_dropped_later(folder: str, damage: str) -> None:
    write(writer(folder), 1, 2)
    newest = files.listed(folder)[0][0]
    file, spoil, said = DAMAGE[damage]
    spoil(storage.join(folder, newest, file))
    search = files.newest(folder, "me")
    assert search.found is not None and search.found.step == 1
    (line,) = search.damaged.values()
    assert f"{newest} is damaged and passed over" in line
    assert re.search(said, line)
    target = writer(folder, keep=1, known=[search.found.name], damaged=list(search.damaged))
    write(target, 2)
    assert steps(folder) == [2] and files.listed(folder)[0] != [newest]


def test_one_without_a_manifest_is_none_and_is_cleaned(folder: str) -> None:
    write(writer(folder), 1, 2)
    newest = files.listed(folder)[0][0]
    storage.remove(storage.join(folder, newest, "manifest.json"))
    search = files.newest(folder, "me")
    assert search.found is not None and search.found.step == 1 and not search.damaged
    assert files.clean(folder) == [newest]
    assert not any(newest in f.url for f in storage.list_files(folder, recursive=True))


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    (tmp_path / "c" / "step-00000003-0a0b0c0d").mkdir(parents=True)
    (tmp_path / "c" / "mine").mkdir()
    assert files.clean(str(tmp_path / "c")) == ["step-00000003-0a0b0c0d"]
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["mine"]
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (tmp_path / f".model.safetensors.{gone.pid}.ab.part").write_bytes(b"x")
    (tmp_path / f".model.safetensors.{os.getpid()}.ab.part").write_bytes(b"x")
    files.clean_parts(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".model.safetensors.{os.getpid()}.ab.part", "c"]
    assert files.listed(str(tmp_path / "nowhere")) == ([], [])


def test_the_old_format_is_read(folder: str) -> None:
    data = save(STATE)
    for name, digest in (("step-00000004", hashlib.sha256(data).hexdigest()), ("step-00000005", "0" * 64)):
        manifest = {"format": 1, "step": int(name[5:]), "sha256": digest, "threads": 1, **MANIFEST}
        storage.make_folder(storage.join(folder, name))
        storage.atomic_write(storage.join(folder, name, "state.safetensors"), data)
        storage.atomic_write(storage.join(folder, name, "manifest.json"), json.dumps(manifest))
    search = files.newest(folder, "me")
    assert search.found is not None and search.found.step == 4 and list(search.damaged) == ["step-00000005"]
    assert equal(dict(search.found.tensors()), STATE)


def test_another_runs_and_a_newer_formats_are_refused(folder: str) -> None:
    write(writer(folder), 1)
    with pytest.raises(CheckpointError, match="made with another recipe or other data"):
        files.newest(folder, "you")
    (name,), _ = files.listed(folder)
    url = storage.join(folder, name, "manifest.json")
    storage.atomic_write(url, json.dumps({**json.loads(storage.read_text(url)), "format": 3}))
    with pytest.raises(CheckpointError, match="has format 3, this version reads up to 2"):
        files.newest(folder, "me")


@pytest.mark.parametrize(
    "before, said",
    [
        (None, "another recipe or other data; if recipe.yaml was edited, set it back"),
        (
            {"trainer": {"lr": 0.5, "log_every": 3}},
            r"another recipe \(trainer\.lr: 0\.5 there, 0\.1 now\); set that back",
        ),
        ({"trainer": {"lr": 0.1, "log_every": 3}}, "by this recipe of other data, or on another first stage"),
    ],
)
def test_another_runs_checkpoint_says_what_differs(before: object, said: str, folder: str) -> None:
    write(writer(folder), 1)
    (name,), _ = files.listed(folder)
    url = storage.join(folder, name, "manifest.json")
    storage.atomic_write(url, json.dumps({**json.loads(storage.read_text(url)), "recipe": before}))
    with pytest.raises(CheckpointError, match=said):
        files.newest(folder, "you", {"trainer": {"lr": 0.1, "log_every": 50}})
    assert files.newest(folder, "me").found is not None


def test_a_storage_that_does_not_answer_is_no_empty_folder(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Otherwise an outage at the start would train from step 0 again."""
    write(writer(folder), 1)

    def down(*_: Any, **__: Any) -> None:
        raise StorageError("no answer in time")

    monkeypatch.setattr(storage, "list_files", down)
    with pytest.raises(StorageError):
        files.newest(folder, "me")


class Gate:
    """Stands before every write: counts them, holds them up, or makes them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.fails: Callable[[str], bool] = lambda url: False
        self.names: list[str] = []
        true = storage.atomic_write

        def guarded(url: str, data: Any) -> None:
            self.names.append(storage.base_name(url))
            self.reached.set()
            assert self.open.wait(20)
            if self.fails(url):
                raise StorageError(f"cannot write {url}: the disk is full")
            true(url, data)

        monkeypatch.setattr(storage, "atomic_write", guarded)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open.set()


def test_training_goes_on_while_a_slow_write_is_under_way(folder: str, gate: Gate) -> None:
    target = writer(folder, background=True)
    target.start(5, STATE, MANIFEST)  # returns though the storage holds it up
    assert gate.reached.wait(10) and target.busy and target.outcome() is None
    assert files.newest(folder, "me").found is None  # half of one is none
    gate.open.set()
    target.wait()
    outcome = target.outcome()
    assert outcome is not None and (outcome.step, outcome.error) == (5, None) and target.outcome() is None
    assert gate.names == ["state-00000.safetensors", "manifest.json"]  # the manifest last
    assert files.newest(folder, "me").found is not None


def test_waiting_has_an_end(folder: str, gate: Gate) -> None:
    target = writer(folder, background=True)
    target.start(5, STATE, MANIFEST)
    target.wait(0.01)
    assert target.busy and target.outcome() is None
    gate.open.set()
    begun = time.monotonic()
    target.wait(60)  # ends with the write
    assert time.monotonic() - begun < 30 and not target.busy and files.newest(folder, "me").found is not None


def test_one_write_at_a_time(folder: str, gate: Gate) -> None:
    target = writer(folder, background=True)
    target.start(1, STATE, MANIFEST)
    threading.Timer(0.2, gate.open.set).start()
    target.start(2, STATE, MANIFEST)  # waits for the first
    assert steps(folder) in ([1], [2, 1])
    target.wait()
    assert steps(folder) == [2, 1]


@pytest.mark.parametrize("file", ["state-00000.safetensors", "manifest.json"])
@pytest.mark.parametrize("background", [False, True])
def test_a_failed_write_is_told_and_leaves_nothing(folder: str, gate: Gate, file: str, background: bool) -> None:
    gate.open.set()
    target = writer(folder, background=background, keep=1)
    write(target, 1)
    gate.fails = lambda url: url.endswith(file)
    target.start(2, STATE, MANIFEST)
    target.wait()
    outcome = target.outcome()
    assert outcome is not None and outcome.step == 2 and "the disk is full" in str(outcome.error)
    assert steps(folder) == [1] and files.listed(folder)[1] == []  # the older one was not dropped for it
    gate.fails = lambda url: False
    write(target, 3)
    assert steps(folder) == [3]


def test_a_mistake_in_the_writing_is_no_failure_of_storage(folder: str) -> None:
    target = writer(folder, background=True)
    target.start(1, {"model/state/x": torch.zeros(2, dtype=torch.complex64)}, MANIFEST)
    target.wait()
    with pytest.raises(KeyError):
        target.outcome()


def test_a_write_makes_no_second_copy(tmp_path: Path) -> None:
    """Python's own allocations stay far below the state's size: tensors go out from where they lie."""
    big = {f"model/state/{i}": torch.zeros(1 << 19) for i in range(16)}  # 32 MB
    target = writer(str(tmp_path))
    tracemalloc.start()
    try:
        write(target, 1, tensors=big)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20
    (name,), _ = files.listed(str(tmp_path))
    assert len(load_file(tmp_path / name / "state-00000.safetensors")) == 16


def test_pruning_that_fails_is_tried_again(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = writer(folder, keep=1)
    write(target, 1)
    true = storage.remove
    monkeypatch.setattr(storage, "remove", lambda *_, **__: (_ for _ in ()).throw(StorageError("denied")))
    write(target, 2)
    assert steps(folder) == [2, 1]
    monkeypatch.setattr(storage, "remove", true)
    write(target, 3)
    assert steps(folder) == [3]


def test_time_is_told(folder: str, gate: Gate) -> None:
    target = writer(folder, background=True)
    target.start(1, STATE, MANIFEST)
    time.sleep(0.1)
    gate.open.set()
    target.wait()
    outcome = target.outcome()
    assert outcome is not None and outcome.seconds >= 0.1


@pytest.mark.parametrize("name", ["notes.txt", "weights.pt", "state.ckpt", "state-1.safetensors.bak", "README"])
def test_a_folder_with_anything_else_in_it_stays(folder: str, name: str) -> None:
    """Someone's folder of a checkpoint's name is neither half of one nor too old."""
    write(writer(folder), 1)
    theirs = storage.join(folder, "step-00000002")
    storage.atomic_write(storage.join(theirs, name), "the user's")
    assert files.clean(folder) == []
    first = storage.join(folder, files.listed(folder)[0][0])
    storage.atomic_write(storage.join(first, name), "the user's")
    write(writer(folder, keep=1, known=[storage.base_name(first)]), 3)
    assert storage.read_text(storage.join(first, name)) == storage.read_text(storage.join(theirs, name)) == "the user's"
