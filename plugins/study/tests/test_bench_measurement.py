"""Rounds, the peak, memory; and the command on a tiny recipe, drawn and trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ldm_plugin_study.bench.gauge import memory
from ldm_plugin_study.bench.gauge.cases import Case
from ldm_plugin_study.bench.gauge.peak import PEAK, peaks, products
from ldm_plugin_study.bench.gauge.rounds import alternate
from ldm_plugin_study.bench.measure import threads
from ldm_plugin_study.bench.result import document
from ldm_plugin_study.bench.result.choice import COMPONENTS, SIZES, Choice, quick
from training_runs import TINY, VQ, go

from ldm_core.cli import main
from ldm_core.config import documents
from ldm_core.errors import ConfigError

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not memory.can_fork(), reason="memory is measured by Linux' own marks")


def case(name: str, call: Callable[[], object], **more: Any) -> Case:
    return Case(component=name, precision="", amount=1, call=call, **more)


def test_rounds_alternate_there_and_back() -> None:
    order: list[str] = []
    made = [case("a", lambda: order.append("a")), case("b", lambda: order.append("b"))]
    taken = alternate(made, Choice(rounds=3, least=1e-9), CPU, lambda n: order.append(str(n)))
    assert order[order.index("0") :] == ["0", "a", "b", "1", "b", "a", "2", "a", "b"]
    assert [len(taken[each]) for each in made] == [3, 3] and min(taken[made[0]]) > 0


def test_parts_of_a_call_and_what_comes_before_it() -> None:
    import time

    events: list[str] = []

    def slow() -> None:
        events.append("before")
        time.sleep(0.05)

    parted = case("parted", lambda: time.sleep(0.04), parts=4)
    fresh = case("fresh", lambda: events.append("call"), before=slow)
    taken = alternate([parted, fresh], Choice(rounds=2, least=1e-9), CPU)
    assert all(0.01 <= each < 0.04 for each in taken[parted])
    assert max(taken[fresh]) < 0.05 and events[:4] == ["before", "call"] * 2


def test_processor_time_leaves_sleep_out() -> None:
    import time

    asleep = case("asleep", lambda: time.sleep(0.05))
    (taken,) = alternate([asleep], Choice(rounds=1, least=1e-9, clock="processor"), CPU)[asleep]
    assert taken < 0.04


def test_the_peak_is_the_best_of_sizes_and_rounds() -> None:
    small, large = products(["fp32"], [64, 128], CPU)
    found = peaks({small: (1.0, 0.5), large: (8.0, 9.0), case("step", print): (1e-9,)})
    assert [(p.precision, p.size, p.rate) for p in found] == [("fp32", 64, 2 * 64**3 / 0.5)]
    assert {each.component for each in (small, large)} == {PEAK}
    (low,) = products(["bf16"], [64], CPU)
    product: Any = low.call()
    assert product.dtype == torch.bfloat16 and product.shape == (64, 64)


@linux
def test_memory_of_a_known_size() -> None:
    """In a process of its own: the heap of one that has run other tests has free blocks of any size, which malloc
    takes and keeps."""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", _KNOWN_SIZE], capture_output=True, text=True, check=True)
    found, left = map(int, done.stdout.split())
    assert abs(found - 2 * (48 << 20)) < 4 << 20
    assert left < 1 << 20, "what was there before does not count"


_KNOWN_SIZE = """
import torch
from ldm_plugin_study.bench.gauge import memory

size = 48 << 20

def call():
    torch.ones(2 * size, dtype=torch.uint8)  # freed before the next
    return torch.ones(size, dtype=torch.uint8)

left = torch.ones(size, dtype=torch.uint8)
print(memory._forked(call, 1), memory._forked(lambda: left[:10].add(1), 1))
"""


@linux
def test_a_killed_child_is_no_number() -> None:
    import os
    import signal

    assert memory._forked(lambda: os.kill(os.getpid(), signal.SIGKILL), 1) is None


def test_a_lack_of_memory_is_a_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import subprocess

    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(memory, "can_fork", lambda: True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    assert main(["bench", str(recipe), *FAST, "--only", "loader"]) == 2
    assert "ended by signal 9" in (said := capsys.readouterr().err) and "--no-memory" in said


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny recipe with a first stage of convolutions and a conditioner, beside the peak of small matrices."""
    monkeypatch.setitem(SIZES, "cpu", (64, 128, 256, 512))
    file = tmp_path / "recipe.yaml"
    more = {"first_stage": VQ, "conditioners": [{"use": "class_label", "width": 8, "dropout": 0.1}], "guidance": "cfg"}
    file.write_text(documents.dump_yaml({**TINY, **more}))
    return file


FAST = ("--quick", "--rounds", "1", "--threads", "1", "--batch", "2", "--quiet")


def test_the_whole_command(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", str(recipe), *FAST, "--json", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    stored = document.read(str(out))
    assert told["status"] == "done" and told["rows"] == json.loads(out.read_text())["rows"]
    networks = [n for n in COMPONENTS if n not in ("loader", "storage")]
    wanted = [(n, p) for n in networks for p in ("fp32", "bf16")] + [("loader", ""), ("storage", "")]
    assert [(r.component, r.precision) for r in stored.rows] == wanted
    assert all(len(r.seconds) == 1 and min(r.seconds) > 0 for r in stored.rows)
    if memory.can_fork():
        assert all(r.memory is not None for r in stored.rows)
    of = {(r.component, r.precision): r for r in stored.rows}
    forward, step, train = (of[name, "fp32"] for name in ("forward", "step", "train"))
    assert 2 * forward.flops <= step.flops < 2.1 * forward.flops, "guided: with a condition and without"
    assert 2.5 * forward.flops < train.flops < 3.5 * forward.flops
    if memory.can_fork():
        assert train.memory is not None and train.memory >= 4 * train.parameters, "gradients are the call's"
    assert {p.precision for p in stored.peaks} == {"fp32", "bf16"}
    assert all(r.flops == of[r.component, "fp32"].flops for r in stored.rows if r.precision == "bf16")
    assert stored.machine.threads == 1 and stored.settings.batch == 2 and stored.settings.rounds == 1

    only = ["--only", "forward", "--precision", "fp32", "--no-memory"]
    assert main(["bench", str(recipe), *FAST, *only, "--against", str(out)]) == 0
    text = capsys.readouterr().out
    assert "TIMES AS FAST" in text and "not in both: step fp32: only before" in text and "OF PEAK" in text


def test_what_differs_is_said_before_the_measurement(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "loader.json")
    only = ("--only", "loader", "--no-memory")
    assert main(["bench", str(recipe), *FAST, *only, "--out", out]) == 0
    assert "peak      not measured" in capsys.readouterr().out
    assert main(["bench", str(recipe), *FAST, *only, "--out", out]) == 2
    assert "--force" in capsys.readouterr().err
    wider = [*FAST, *only, "denoiser.channels=16"]
    assert main(["bench", str(recipe), *wider, "--against", out, "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert "recipe.denoiser.channels: 8 -> 16" in problems[0] and "--anyway" in problems[0]
    assert main(["bench", str(recipe), *wider, "--against", out, "--anyway", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["comparison"]
    assert said["differences"] == ["recipe.denoiser.channels: 8 -> 16"]
    assert main(["bench", out, *only, "denoiser.channels=16"]) == 2
    assert "leave out --only, denoiser.channels, or give a run" in capsys.readouterr().err
    assert main(["bench", out, "--against", out]) == 0
    assert "loader" in capsys.readouterr().out


def test_processor_time_is_of_one_thread_on_a_cpu() -> None:
    before = torch.get_num_threads()
    with threads(torch.device("cpu"), None, cpu_time=True):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match="cpu_time: it is the time of one thread"):
        threads(torch.device("cuda"), None, cpu_time=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing_like_it"], "no recipe named 'nothing_like_it'"),
        (["--only", "everything"], "'everything' is not one of"),
        (["--device", "tpu9"], "device 'tpu9' cannot be used here"),
        (["--against", "nowhere.json"], "no such file"),
        (["--cpu-time", "--threads", "2"], "the time of one thread"),
    ],
)
def test_mistakes_are_lines(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_part_that_allows_no_precision_is_left_out_by_name(recipe: Path) -> None:
    import attrs
    from ldm_plugin_study.bench.gauge.cases import cases
    from ldm_plugin_study.bench.source import source

    what = source(str(recipe), [], [], CPU, 1)

    @attrs.frozen(kw_only=True)
    class Exact(type(what.recipe.denoiser.config)):  # type: ignore[misc]
        precisions = ("fp32",)

    config = Exact(**attrs.asdict(what.recipe.denoiser.config, recurse=False))
    exact = attrs.evolve(
        what, recipe=attrs.evolve(what.recipe, denoiser=attrs.evolve(what.recipe.denoiser, config=config))
    )
    notes: list[str] = []
    made = list(cases(exact.subject(), Choice(components=("forward", "train"), precisions=("bf16", "fp32")), notes))
    assert [(c.component, c.precision) for c in made] == [("forward", "fp32"), ("train", "fp32")]
    assert notes == [f"{name}: denoiser runs in fp32 alone" for name in ("forward", "train")]


def test_a_run_is_measured_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_plugin_study.bench.source import source

    go(tmp_path / "run", stages=("first_stage", "latents", "denoiser"))
    what = source(str(tmp_path / "run"), [], [], CPU, 2)
    assert what.weights == str(tmp_path / "run")
    trained = torch.cat([p.flatten() for p in what.subject().model().denoiser.parameters()])  # type: ignore[attr-defined]
    changed = source(str(tmp_path / "run"), ["denoiser.channels=16"], [], CPU, 2)
    assert changed.weights == "" and changed.recipe.denoiser.config.channels == 16
    plain = source(str(tmp_path / "run"), ["seed=0"], [], CPU, 2)
    drawn = torch.cat([p.flatten() for p in plain.subject().model().denoiser.parameters()])  # type: ignore[attr-defined]
    assert trained.shape == drawn.shape and not torch.equal(trained, drawn)


def test_quick_is_the_same_but_shorter() -> None:
    assert quick(Choice()).components == Choice().components and quick(Choice()).rounds < Choice().rounds
