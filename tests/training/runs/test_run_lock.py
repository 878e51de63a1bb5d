"""The lock of a run's folder: one holder, honest messages, stale locks taken over by exactly one."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from forked import Command, forked
from training_runs import go

from ldm_core import storage
from ldm_core.errors import LockError, StorageError
from ldm_core.training.engine.world import World
from ldm_core.training.folder import lock
from ldm_core.training.folder.lock import Holder, Lock

FAST: dict[str, Any] = {"beat": 0.05, "patience": 0.5}


def place(kind: str, tmp_path: Path) -> str:
    return str(tmp_path / "run") if kind == "local" else f"memory://lock-{tmp_path.name}"


def put(folder: str, holder: Holder) -> None:
    storage.atomic_write(storage.join(folder, "lock"), holder.text())


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request.param, tmp_path)


def test_a_second_run_is_refused_and_told_who_holds_it(folder: str) -> None:
    first = Lock.take(folder, pytest.fail, **FAST)
    me = Holder.me()
    with pytest.raises(
        LockError, match=rf"in use by another run \(process {me.pid} on {me.host}, since 20.*another `out`"
    ):
        Lock.take(folder, pytest.fail, **FAST)
    time.sleep(0.3)  # several beats later it is still this one's
    assert json.loads(storage.read_text(storage.join(folder, "lock")))["beat"] > me.beat
    first.release()
    assert not storage.exists(storage.join(folder, "lock"))
    Lock.take(folder, pytest.fail, **FAST).release()


def test_the_lock_of_a_process_that_is_gone_is_taken_over(folder: str) -> None:
    code = "from ldm_core.training.folder.lock import Holder; print(Holder.me().text())"
    (done,) = forked([Command(["-c", code])])
    gone = Holder.parse(done.out)
    assert gone is not None and gone.gone() is True and Holder.me().gone() is False
    put(folder, gone)
    said: list[str] = []
    Lock.take(folder, said.append, **FAST).release()
    assert said == [f"the lock of {gone.shown} was left behind and is taken over"]


def test_a_number_that_was_given_again_is_another_process() -> None:
    me = Holder.me()
    if not me.started:
        pytest.skip("this system does not tell when a process started")
    assert attrs.evolve(me, started="1").gone() is True
    assert attrs.evolve(me, machine="another boot").gone() is None  # nothing can be said about it from here


def test_the_lock_of_another_machine_is_watched(folder: str) -> None:
    """Clocks are not compared but by a wide margin: a lock lives if it is refreshed while one looks."""
    other = attrs.evolve(Holder.me(), machine="elsewhere", host="elsewhere", pid=4)
    put(folder, other)
    said: list[str] = []
    begun = time.monotonic()
    Lock.take(folder, said.append, **FAST).release()
    assert time.monotonic() - begun > 0.4
    assert "watching up to 0 s" in said[0] and "process 4 on elsewhere" in said[1]

    put(folder, other)
    beating = threading.Timer(0.2, lambda: put(folder, attrs.evolve(other, beat=other.beat + 1)))
    beating.start()
    with pytest.raises(LockError, match="process 4 on elsewhere"):
        Lock.take(folder, said.append, **FAST)
    beating.join()

    put(folder, attrs.evolve(other, beat=time.time() - 2 * lock.OLD))  # nobody waits for that one
    begun = time.monotonic()
    Lock.take(folder, said.append, beat=1, patience=60).release()
    assert time.monotonic() - begun < 10


def test_of_many_that_find_a_stale_lock_one_gets_it(folder: str) -> None:
    put(folder, attrs.evolve(Holder.me(), started="1", pid=4))
    taken: list[Lock] = []
    refused: list[str] = []
    ready = threading.Barrier(8)

    def grab() -> None:
        ready.wait()
        try:
            taken.append(Lock.take(folder, lambda _: None, beat=5, patience=0.5))
        except LockError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=grab) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1 and len(refused) == 7
    taken[0].release()
    assert not storage.exists(folder) or storage.list_files(folder) == []


@pytest.mark.parametrize("half", ["", '{"token": "ab', '{"}\n'])
def test_half_a_lock_is_stale(folder: str, half: str) -> None:
    storage.atomic_write(storage.join(folder, "lock"), half)
    said: list[str] = []
    Lock.take(folder, said.append, **FAST).release()
    assert "was left behind" in said[0]


@pytest.mark.parametrize("text", ["a file of the user's", "[1]", b"\xff\xfe"])
def test_a_file_of_that_name_that_is_no_lock_stays(folder: str, text: str | bytes) -> None:
    url = storage.join(folder, "lock")
    storage.atomic_write(url, text)
    with pytest.raises((LockError, StorageError), match=r"is no lock of a run|not UTF-8"):
        Lock.take(folder, pytest.fail, **FAST)
    assert storage.read_bytes(url) == (text.encode() if isinstance(text, str) else text)


def test_a_holder_notices_that_it_was_robbed(folder: str) -> None:
    held = Lock.take(folder, pytest.fail, **FAST)
    other = attrs.evolve(Holder.me(), token="another")
    put(folder, other)
    end = time.monotonic() + 5
    while not held.lost and time.monotonic() < end:
        time.sleep(0.02)
    assert held.lost
    held.release()
    assert Holder.parse(storage.read_text(storage.join(folder, "lock"))) == other  # it is not ours to remove


def test_a_run_holds_it_until_it_ends(tmp_path: Path) -> None:
    here = World(0, 1, torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), lock.held(str(tmp_path), here, pytest.fail) as held:
        assert held is not None and (tmp_path / "lock").exists()
        raise ZeroDivisionError
    assert not (tmp_path / "lock").exists()


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    """The second is refused before it writes anything, its recipe included."""
    with (
        lock.held(str(tmp_path), World(0, 1, torch.device("cpu")), pytest.fail),
        pytest.raises(LockError, match=rf"is in use by another run \(process {os.getpid()} on "),
    ):
        go(tmp_path)
    assert list(tmp_path.iterdir()) == []
