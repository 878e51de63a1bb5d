"""Starting ranks: srun's variables, waiting times, and the supervisor of ``--nproc`` with ranks that only wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_core.cli import main
from ldm_core.cli.launching import processes
from ldm_core.cli.options import LaunchOptions
from ldm_core.errors import ConfigError, Interrupted, TrainingError
from ldm_core.launch import environment
from ldm_core.launch import ranks as launch_processes
from ldm_core.launch.ranks import Ranks, shared_variables

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node7", "node7"), ("gpu[03-05,9],login", "gpu03"), ("a,b", "a"), ("rack[1-2]n[08,10]-ib,x[1]", "rack1n08-ib")],
)
def test_the_first_of_slurms_nodes(nodes: str, first: str) -> None:
    assert environment.first_host(nodes) == first


STEP = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[03-04]",
        "SLURM_STEP_ID": "2", "SLURM_JOB_ID": "41000"}  # fmt: skip


def test_sruns_variables_become_the_usual_ones() -> None:
    environ = dict(STEP)
    environment.adopt(environ)
    said = {k: environ[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    assert said == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu03", "MASTER_PORT": "16002"}


@pytest.mark.parametrize(
    "changes",
    [{"RANK": "0"}, {"SLURM_STEP_ID": None}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_PROCID": None}],
)
def test_other_processes_keep_their_variables(changes: dict[str, str | None]) -> None:
    """Another launcher's, the batch script, a step of one task, no Slurm at all."""
    environ = {k: v for k, v in {**STEP, **changes}.items() if v is not None}
    before = dict(environ)
    environment.adopt(environ)
    assert environ == before


def test_a_meeting_place_that_was_given_stays() -> None:
    environ = {**STEP, "MASTER_ADDR": "head", "MASTER_PORT": "5", "SLURM_STEP_NUM_TASKS": "6"}
    environment.adopt(environ)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"], environ["WORLD_SIZE"]) == ("head", "5", "6")


def test_minutes_of_waiting() -> None:
    assert environment.timeout({}).total_seconds() == 1800
    assert environment.timeout({"LDM_TIMEOUT": "0.5"}).total_seconds() == 30
    for wrong in ("soon", "0", "-1", "inf", "nan", "1e300"):
        with pytest.raises(ConfigError, match=f"LDM_TIMEOUT: expected minutes, a number above 0, got '{wrong}'"):
            environment.timeout({"LDM_TIMEOUT": wrong})


def test_of_several_processes_one_tells_what_all_find() -> None:
    recipe, training, stopped = ConfigError("x"), TrainingError("x"), Interrupted("x")
    for error in (recipe, training, stopped):
        assert (
            environment.error_prefix(error, {})
            == environment.error_prefix(error, {"LOCAL_RANK": "0", "RANK": "4"})
            == ""
        )
    third = {"LOCAL_RANK": "1", "RANK": "3"}
    assert environment.error_prefix(recipe, third) is environment.error_prefix(stopped, third) is None
    assert environment.error_prefix(training, third) == "rank 3: "


def test_nproc_under_another_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LDM_TIMEOUT", raising=False)
    with pytest.raises(ConfigError, match="started this process already, as rank 1 of 2; leave --nproc out"):
        processes(LaunchOptions(nproc=2))
    assert processes(LaunchOptions(nproc=1)) == processes(LaunchOptions()) == 0
    monkeypatch.setenv("LDM_TIMEOUT", "7")
    processes(LaunchOptions(timeout=2.5))
    assert os.environ["LDM_TIMEOUT"] == "2.5"


def test_a_wrong_recipe_is_told_once_before_anything_starts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", "--nproc", "2", "--out", str(out), "trainer.stepz=3"]) == 2
    said = capsys.readouterr()
    assert said.err.count("stepz") == 1 and not out.exists()


def test_the_ranks_share_a_port_and_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = shared_variables(2)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert (made["WORLD_SIZE"], made["MASTER_ADDR"]) == ("2", "127.0.0.1")
    assert made["OMP_NUM_THREADS"] == str(max(1, cores // 2)) and 0 < int(made["MASTER_PORT"]) < 65536
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert shared_variables(2)["OMP_NUM_THREADS"] == "3"


# ---- the supervisor -------------------------------------------------------------------------------------------------


def script(tmp_path: Path, body: str) -> list[str]:
    path = tmp_path / "rank.py"
    head = """
        import os, signal, subprocess, sys, time
        from pathlib import Path
        rank, here = int(os.environ["RANK"]), Path(__file__).parent
        def note(name): (here / f"{name}-{rank}").touch()
        def wait_for(*names):
            while not all((here / n).exists() for n in names): time.sleep(0.01)
    """
    path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    return [sys.executable, str(path)]


def ranks(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    monkeypatch.setattr(launch_processes, "NOTICE_SECONDS", 0.3)
    monkeypatch.setattr(launch_processes, "END_SECONDS", 0.3)
    return Ranks(script(tmp_path, body), 2, tmp_path / "logs")


def test_all_ranks_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = """
        print("out of", rank, os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"])
        print("err of", rank, file=sys.stderr)
    """
    assert ranks(tmp_path, body, monkeypatch).run() == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("out of 0 0 2\n", "err of 0\n")
    log = (tmp_path / "logs" / "rank-1.log").read_text()
    assert "out of 1 1 2" in log and "err of 1" in log
    assert "err of 0" in (tmp_path / "logs" / "rank-0.log").read_text()


def test_a_rank_that_was_killed_is_named_and_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 waits for it for good, and so does what rank 0 started."""
    body = """
        if rank:
            wait_for("ready-0")
            print("the last thing it said", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGTERM, lambda *_: note("told"))
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (here / "child").write_text(str(child.pid))
        note("ready")
        while True: time.sleep(0.05)
    """
    begun = time.monotonic()
    assert ranks(tmp_path, body, monkeypatch).run() == 128 + signal.SIGKILL
    assert time.monotonic() - begun < 20
    said = capsys.readouterr().err
    assert said.count("rank 1 was ended by SIGKILL") == 1 and "the last thing it said" in said
    assert str(tmp_path / "logs" / "rank-1.log") in said
    assert (tmp_path / "told-0").exists()  # it had the chance to end by itself
    _wait_for(lambda: _gone(int((tmp_path / "child").read_text())))


def _gone(pid: int) -> bool:
    """Ended; where nobody waits for orphans, they stay as zombies."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(("code", "shown"), [(2, 1), (130, 1), (3, 2)])
def test_a_mistake_that_all_find_is_told_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    shown: int,
) -> None:
    """Rank 1 is the first to fail. Where rank 0 says the same, that is enough; a crash of rank 1 is quoted."""
    body = f"""
        print("error: the mistake", file=sys.stderr, flush=True)
        note("said")
        wait_for("said-0", "said-1")
        time.sleep(0.2 if rank == 0 else 0)
        sys.exit({code})
    """
    assert ranks(tmp_path, body, monkeypatch).run() == code
    assert capsys.readouterr().err.count("the mistake") == shown


def test_an_error_of_one_rank_alone_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = """
        if rank:
            print("error: no such disk here", file=sys.stderr)
            sys.exit(2)
        while True: time.sleep(0.05)
    """
    assert ranks(tmp_path, body, monkeypatch).run() == 2
    said = capsys.readouterr().err
    assert "rank 1 ended with exit code 2" in said and "no such disk here" in said


@linux
def test_signals_reach_all_ranks(tmp_path: Path) -> None:
    """SIGUSR1 too early ends nobody; SIGUSR1 and SIGTERM arrive at each rank, once; exit code 130."""
    body = """
        note("early")
        wait_for("go")
        signal.signal(signal.SIGUSR1, lambda *_: note("usr1"))
        signal.signal(signal.SIGTERM, lambda *_: (note("term"), sys.exit(130)))
        note("ready")
        while True: time.sleep(0.05)
    """
    code = f"""
        import sys
        from pathlib import Path
        from ldm_core.launch.ranks import Ranks
        sys.exit(Ranks({script(tmp_path, body)!r}, 2, Path({str(tmp_path / "logs")!r})).run())
    """
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE)
    try:
        _wait(tmp_path, "early-0", "early-1")
        supervisor.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        (tmp_path / "go").touch()
        _wait(tmp_path, "ready-0", "ready-1")
        assert not list(tmp_path.glob("usr1-*"))
        supervisor.send_signal(signal.SIGUSR1)
        _wait(tmp_path, "usr1-0", "usr1-1")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(timeout=30) == 130
        _wait(tmp_path, "term-0", "term-1")
    finally:
        supervisor.kill()
        supervisor.communicate()


@linux
def test_ranks_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    body = """
        from ldm_core.launch import environment as launch
        signal.signal(signal.SIGTERM, lambda *_: (note("term"), sys.exit(130)))
        launch.follow()
        assert launch.supervised() and launch.SUPERVISOR not in os.environ
        (here / f"pid-{rank}.tmp").write_text(str(os.getpid()))
        (here / f"pid-{rank}.tmp").rename(here / f"pid-{rank}")
        while True: time.sleep(0.05)
    """
    code = f"""
        from pathlib import Path
        from ldm_core.launch.ranks import Ranks
        Ranks({script(tmp_path, body)!r}, 2, Path({str(tmp_path / "logs")!r})).run()
    """
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        _wait(tmp_path, "pid-0", "pid-1")
    finally:
        supervisor.kill()
        supervisor.wait()
    _wait(tmp_path, "term-0", "term-1")


def _wait(folder: Path, *names: str) -> None:
    _wait_for(lambda: all((folder / name).exists() for name in names))


def _wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about within 30 s")
