"""Threads of a command: cores open to it, programs beside it, variables of the user, and a run that goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ldm_core import storage
from ldm_core.cli import main
from ldm_core.launch import cores, threads
from ldm_core.training.checkpoints.threads import hold
from ldm_core.training.folder.own_files import OwnFiles

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs affinities")


def _groups(folder: Path, own: str, **files: str) -> tuple[Path, Path]:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "own").write_text(own + "\n")
    return folder, folder / "own"


def test_quotas_of_both_versions_of_control_groups(tmp_path: Path) -> None:
    second = _groups(tmp_path / "2", "0::/a/b", a__b__cpu_max="max 100000", a__cpu_max="150000 100000")
    assert cores.quota(*second) == 1.5, "the group around it counts"
    inside = _groups(tmp_path / "3", "0::/host/path/of/a/container", cpu_max="50000 100000")
    assert cores.quota(*inside) == 0.5
    first = {"cpu__g__cpu_cfs_quota_us": "300000", "cpu__g__cpu_cfs_period_us": "100000", "cpu__cpu_cfs_quota_us": "-1"}
    assert cores.quota(*_groups(tmp_path / "1", "5:cpuset:/x\n4:cpu,cpuacct:/g\n0::/", **first)) == 3
    assert cores.quota(*_groups(tmp_path / "0", "0::/", cpu_max="what 1")) is None
    assert cores.quota(tmp_path, tmp_path / "nothing") is None
    assert [cores.used_up(q) for q in (0.1, 1.0, 1.1, 1.25, 2.0, 2.5)] == [1, 1, 1, 2, 2, 3]


def test_a_quota_and_an_affinity_bound_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "open_cores", lambda: range(8))
    monkeypatch.setattr(cores, "_siblings", lambda core: f"{core // 2}")
    monkeypatch.setattr(cores, "quota", lambda: None)
    assert (cores.cores(), cores.physical_cores()) == (8, 4)
    monkeypatch.setattr(cores, "quota", lambda: 2.5)
    assert (cores.cores(), cores.physical_cores()) == (3, 3)


def test_fewer_threads_where_others_work() -> None:
    assert [threads.fitting(2, used) for used in (0.0, 0.4, 0.6, 1.0, 2.0)] == [2, 2, 1, 1, 1]
    assert [threads.fitting(8, used) for used in (0, 1, 4, 8)] == [8, 7, 4, 8], "one thread of many is no help"
    assert threads.fitting(1, 1.0) == 1


def _settled(monkeypatch: pytest.MonkeyPatch, used: float, environ: dict[str, str]) -> threads.Threads:
    monkeypatch.setattr(threads, "physical_cores", lambda: 2)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.setattr(cores.Others, "lasting", lambda self: used)
    modules = {name: module for name, module in sys.modules.items() if name != "torch"}
    monkeypatch.setattr(threads, "sys", SimpleNamespace(modules=modules))
    monkeypatch.setattr(threads, "_command", threads.Command(environ))
    threads.settle()
    command = threads.current()
    assert command is not None
    return command.threads


def test_variables_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    idle: dict[str, str] = {"HOME": "/"}
    assert str(_settled(monkeypatch, 0.1, idle)) == "2 of 2 cores"
    assert idle == {"HOME": "/", **threads.SHORT}
    busy: dict[str, str] = {}
    assert str(_settled(monkeypatch, 1.0, busy)) == "1 of 2 cores, as other programs use 1.0"
    assert busy == {**threads.SHORT, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", [*threads.NUMBER, *threads.WAITING])
def test_the_users_variables_stay(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    environ = {name: "5"}
    made = _settled(monkeypatch, 1.0, environ)
    assert environ[name] == "5"
    if name in threads.NUMBER:
        assert made.given == f"{name}=5" and environ == {name: "5", **threads.SHORT}
    else:
        assert environ == {name: "5", "OMP_NUM_THREADS": "1"}


def test_other_processes_get_a_number_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    environ: dict[str, str] = {}
    _settled(monkeypatch, 1.0, environ)
    assert environ["OMP_NUM_THREADS"] == "1" and "OMP_NUM_THREADS" not in threads.environment()
    made = threads.shared(2)
    assert made["OMP_NUM_THREADS"] == "4" and threads.shared(2, {"MKL_NUM_THREADS": "3"}) == {"MKL_NUM_THREADS": "3"}
    started = threads.Command(made)
    started.settle()
    assert started.free and made == {"OMP_NUM_THREADS": "4", **threads.SHORT}, "chosen by the process that started it"


def test_nobody_elses_process_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command within a process of somebody's, and the library imported."""
    for name in (*threads.NUMBER, *threads.WAITING):
        monkeypatch.delenv(name, raising=False)
    before, number = dict(os.environ), torch.get_num_threads()
    assert main(["plugins", "--json"]) == 0
    assert dict(os.environ) == before and torch.get_num_threads() == number and threads.current() is None


@linux
def test_an_affinity_of_one_core_gives_one_thread_in_a_process_of_the_command() -> None:
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); sys.argv[1:] = ['--version'];"
        "from ldm_core.cli import main; main(); from ldm_core.launch import threads; threads.settle();"
        "print(threads.remark(always=True)); print(os.environ['GOMP_SPINCOUNT'])"
    )
    known = {k: v for k, v in os.environ.items() if k not in (*threads.NUMBER, *threads.WAITING)}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["threads: 1 of 1 core", threads.SHORT["GOMP_SPINCOUNT"]]


# ------------------------------------------------------------------------------------------------ a run that goes on


class _World:
    main, size = True, 1


class _Context:
    def __init__(self, out: Path) -> None:
        self.out, self.said = str(out), list[str]()
        self.run = SimpleNamespace(world=_World(), say=self.said.append)

    @property
    def own(self) -> OwnFiles:
        return OwnFiles.read(self.out)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process of the command's own; torch's threads are afterwards as before."""
    made = threads.Command({})
    monkeypatch.setattr(threads, "_command", made)
    monkeypatch.setattr("ldm_core.training.checkpoints.threads.cores", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield made
    torch.set_num_threads(before)


def test_a_run_keeps_its_number_of_threads(tmp_path: Path, command: threads.Command) -> None:
    context: Any = _Context(tmp_path)
    hold(context)
    assert context.own.threads == 2 and not context.said
    context.own.note({"recipe.yaml": "x"})
    assert context.own.threads == 2, "the list of files keeps it"
    torch.set_num_threads(1)
    hold(context)
    assert torch.get_num_threads() == 2
    assert context.said == [
        "threads: 2, as at the run's begin, for the same bits at its end (now 1 would be chosen; OMP_NUM_THREADS=1 "
        "takes them)"
    ]


def test_a_number_of_the_users_or_too_few_cores_come_first(
    tmp_path: Path, command: threads.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    OwnFiles.read(str(tmp_path)).keep_threads(8)
    context: Any = _Context(tmp_path)
    hold(context)
    assert torch.get_num_threads() == 2 == context.own.threads, "8 threads on 4 cores"
    torch.set_num_threads(1)
    monkeypatch.setattr(threads, "_command", None)
    hold(context)
    assert torch.get_num_threads() == 1, "a process of somebody's"


def test_a_run_of_a_version_that_noted_none(tmp_path: Path, command: threads.Command) -> None:
    folder = tmp_path / "checkpoints" / "denoiser" / "step-00000004-01234567"
    storage.make_folder(str(folder))
    (folder / "manifest.json").write_text(json.dumps({"threads": 1}))
    context: Any = _Context(tmp_path)
    hold(context)
    assert torch.get_num_threads() == 1 == context.own.threads
