"""Runs of several processes, by every way to start them; lost, stopped and signalled processes. Real trainings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Command, Process
from ranks import free_port, variables
from training_runs import TINY, go, weights

from ldm_core.config import documents

RECIPE = {**TINY, "trainer": {**TINY["trainer"], "checkpoint_every": 10_000}}
ENDLESS = ["trainer.steps=100000", "trainer.log_every=1"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
MODEL = ("first_stage", "latents", "denoiser")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(documents.dump_yaml(RECIPE))
    return tmp_path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    go(out, stages=MODEL)
    return out


def environment() -> dict[str, str]:
    ours = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LDM_TIMEOUT")
    return {**{k: v for k, v in os.environ.items() if k not in ours}, "OMP_NUM_THREADS": "1"}


def train(*more: str) -> list[str]:
    return ["train", "--recipe", "tiny.yaml", "--out", "run", *more]


def started(folder: Path, *command: str, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(command), cwd=folder, env={**environment(), **extra}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A run that is sure to be over afterwards, with its ranks."""
    process = started(folder, *command)
    ranks: dict[int, int] = {}
    try:
        yield process
    finally:
        ranks.update(ranks_of(process.pid))
        process.kill()
        for pid in ranks.values():
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:
                continue
        process.communicate()


def nproc(*more: str) -> list[str]:
    return [sys.executable, "-m", "ldm_core.cli", *train("--nproc", "2", *ENDLESS, *more)]


def ranks_of(pid: int) -> dict[int, int]:
    """Rank -> process id of the ranks that process `pid` has started."""
    out = {}
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.exists() else []:
        environ = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((e for e in environ if e.startswith(b"RANK=")), None)
        if rank:
            out[int(rank[5:])] = int(child)
    return out


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come about in time")


def steps(folder: Path) -> int:
    path = folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((r["step"] for r in map(json.loads, lines[-3:]) if r["stage"] == "denoiser"), default=0)


def checkpoints(folder: Path) -> list[int]:
    found = (folder / "run" / "checkpoints" / "denoiser").glob("step-*/manifest.json")
    return sorted(json.loads(p.read_text())["step"] for p in found)


def test_a_signal_of_one_rank_is_for_all(folder: Path) -> None:
    """SIGUSR1 for one of two, twice: both write a checkpoint and go on. SIGTERM for the other: a checkpoint and exit
    code 130 of both. That the supervisor of ``--nproc`` hands signals on has its tests with ranks that wait."""
    port = free_port()
    line = ["ldm_core.cli", *train(*ENDLESS, "trainer.validate_images=1")]
    both = [Process(Command(line, cwd=folder, environment=variables(rank, 2, port))) for rank in (0, 1)]
    try:
        until(lambda: "denoiser: 100000 steps" in both[0].errors())  # metrics.jsonl is ten seconds behind
        os.kill(both[1].pid, signal.SIGUSR1)
        (saved,) = until(lambda: checkpoints(folder))
        until(lambda: f"denoiser: checkpoint of step {saved}, as asked for" in both[0].errors())
        os.kill(both[1].pid, signal.SIGUSR1)
        again = until(lambda: [step for step in checkpoints(folder) if step > saved])[-1]
        assert [process.poll() for process in both] == [None, None]
        os.kill(both[0].pid, signal.SIGTERM)
        ended = [process.end(90) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [each.code for each in ended] == [130, 130], ended[0].err + ended[1].err
    assert checkpoints(folder)[-1] > again
    said = "".join(each.err for each in ended)
    assert "the same command goes on from there" in said, said


@linux
@pytest.mark.slow
def test_nproc_hands_signals_on(folder: Path) -> None:
    """SIGUSR1: a checkpoint, and it goes on. SIGTERM: a checkpoint, exit code 130, one message, nobody left."""
    with running(folder, *nproc()) as process:
        until(lambda: steps(folder) > 2)
        ranks = ranks_of(process.pid)
        assert set(ranks) == {0, 1}
        process.send_signal(signal.SIGUSR1)
        (saved,) = until(lambda: checkpoints(folder))
        until(lambda: steps(folder) > saved)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=90)
        assert process.returncode == 130, said
        assert said.count("interrupted: ") == 1 and "the same command goes on from there" in said
        assert checkpoints(folder)[-1] > saved
        assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    logs = sorted(p.name for p in (folder / "run" / "logs").iterdir())
    assert logs == ["rank-0.log", "rank-1.log"]
    assert "interrupted: " in (folder / "run" / "logs" / "rank-1.log").read_text()


@linux
@pytest.mark.slow
def test_a_lost_rank_ends_the_others(folder: Path) -> None:
    with running(folder, *nproc()) as process:
        until(lambda: steps(folder) > 2)
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        begun = time.monotonic()
        _, said = process.communicate(timeout=90)
    assert time.monotonic() - begun < 30
    assert process.returncode == 137
    assert "rank 1 was ended by SIGKILL" in said
    assert "error: rank 0 has lost another process of the run" in said and "Traceback" not in said


@linux
@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_run_after_the_timeout(folder: Path) -> None:
    with running(folder, *nproc("--timeout", "0.2")) as process:
        until(lambda: steps(folder) > 2)
        os.kill(ranks_of(process.pid)[1], signal.SIGSTOP)
        begun = time.monotonic()
        _, said = process.communicate(timeout=120)
    assert 5 < time.monotonic() - begun < 80  # 12 s of waiting, and 20 s in which the stopped rank may end by itself
    assert process.returncode == 2
    assert "error: rank 0 has lost another process of the run" in said


@linux
@pytest.mark.slow
def test_a_killed_supervisor_takes_its_ranks_along(folder: Path) -> None:
    """They write a checkpoint first, and the same command goes on from it."""
    with running(folder, *nproc()) as process:
        until(lambda: steps(folder) > 2)
        ranks = ranks_of(process.pid)
        process.kill()
        process.wait()
        for pid in ranks.values():
            until(lambda pid=pid: ended(pid), 60)  # type: ignore[misc]
    assert checkpoints(folder)


def ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def finished(folder: Path, alone: Path, *processes: subprocess.Popen[str]) -> None:
    """They all end well, and have trained what one process trains."""
    said = ""
    try:
        said = "".join("".join(p.communicate(timeout=240)) for p in processes)
    finally:
        for process in processes:
            process.kill()
    assert all(p.returncode == 0 for p in processes), said[-4000:]
    one, made = weights(alone), weights(folder / "run")
    assert one.keys() == made.keys()
    for name, value in one.items():
        torch.testing.assert_close(made[name], value, rtol=1e-4, atol=1e-6)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.mark.slow
def test_torchrun(folder: Path, alone: Path) -> None:
    command = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "-m", "ldm_core.cli", *train()]
    finished(folder, alone, started(folder, *command))


@pytest.mark.slow
def test_two_nodes(folder: Path, alone: Path) -> None:
    """Two torchrun agents on this machine, each with one process, stand for two nodes."""
    port = str(20000 + os.getpid() % 20000)
    agents = [
        started(folder, *TORCHRUN, "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1",
                "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "ldm_core.cli", *train())
        for node in range(2)
    ]  # fmt: skip
    finished(folder, alone, *agents)


@pytest.mark.slow
def test_deepspeeds_launcher(folder: Path, alone: Path) -> None:
    program = shutil.which("deepspeed", path=str(Path(sys.executable).parent)) or shutil.which("deepspeed")
    if program is None:
        pytest.skip("DeepSpeed's launcher is not on the PATH")
    port = str(20000 + (os.getpid() + 7) % 20000)
    command = [program, "--num_accelerators", "2", "--master_port", port, "--module", "ldm_core.cli", *train()]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    finished(folder, alone, started(folder, *command, DS_ACCELERATOR="cpu", PATH=path))


@pytest.mark.slow
def test_srun(folder: Path, alone: Path) -> None:
    """Two processes with the variables of a job step of two tasks."""
    job = str(os.getpid() % 20000)
    step = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_STEP_ID": "0",
            "SLURM_JOB_ID": job}  # fmt: skip
    command = [sys.executable, "-m", "ldm_core.cli", *train()]
    tasks = [started(folder, *command, **step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(2)]
    finished(folder, alone, *tasks)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_offloaded_optimizers_train_the_same_on_two_ranks(folder: Path, alone: Path, zero: int) -> None:
    spread = "trainer.deepspeed={zero_optimization: {stage3_param_persistence_threshold: 0}}"
    more = [f"trainer.zero={zero}", f"trainer.offload={'all' if zero == 3 else 'optimizer'}",
            "trainer.activation_checkpointing=true", *([spread] if zero == 3 else [])]  # fmt: skip
    command = [sys.executable, "-m", "ldm_core.cli", *train("--nproc", "2", *more)]
    finished(folder, alone, started(folder, *command))
