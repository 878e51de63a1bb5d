"""Settings, options and commands in any order, as the group takes them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from ldm_core import __version__
from ldm_core.cli import error_lines, main
from ldm_core.cli.options import RunOptions
from ldm_core.errors import ConfigError, DataError, Interrupted, LDMError
from ldm_core.training.workflow import STAGES


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Where the job would run: what was asked of it."""
    from ldm_core.cli import run

    seen: list[tuple[str, dict[str, Any], tuple[str, ...]]] = []

    def fake(options: RunOptions, stages: tuple[str, ...] = STAGES) -> int:
        told = attrs.asdict(options)
        nested = [told.pop(name) for name in ("recipe", "inputs", "launch")]
        settings = told.pop("settings")
        assert told.pop("until", "denoiser") == "denoiser"
        flat = {key: value for each in (*nested, told) for key, value in each.items()}
        said = {key: value for key, value in flat.items() if value not in (None, (), False)}
        seen.append((",".join(stages), said, settings))
        return 0

    monkeypatch.setattr(run, "run_stages", fake)
    return seen


ALL = "first_stage,latents,denoiser,samples"
TRAINING = "first_stage,latents,denoiser"


@pytest.mark.parametrize(
    "line, stages, options, settings",
    [
        ("", ALL, {}, ()),
        (
            "--first-stage vq_f4 --cond text --sampler ddim first_stage.channels=32",
            ALL,
            {"first_stage": "vq_f4", "cond": ("text",), "sampler": "ddim"},
            ("first_stage.channels=32",),
        ),
        (
            "trainer.steps=5 --seed 3 a.b=c=d --cond text --cond bbox_layout x=",
            ALL,
            {"seed": 3, "cond": ("text", "bbox_layout")},
            ("trainer.steps=5", "a.b=c=d", "x="),
        ),
        ("--prompt train --prompt a=b", ALL, {"prompt": ("train", "a=b")}, ()),
        ("--input caption=red --data=shapes", ALL, {"input": ("caption=red",), "data": ("shapes",)}, ()),
        ("train --seed 3 trainer.steps=5", TRAINING, {"seed": 3}, ("trainer.steps=5",)),
        ("--seed 3 trainer.steps=5 train --json", TRAINING, {"seed": 3, "json": True}, ("trainer.steps=5",)),
        ("a=1 train b=2 --quiet c=3", TRAINING, {"quiet": True}, ("a=1", "b=2", "c=3")),
    ],
)
def test_order_does_not_matter(
    calls: list[Any], line: str, stages: str, options: dict[str, Any], settings: tuple[str, ...]
) -> None:
    assert main(line.split()) == 0
    assert calls == [(stages, options, settings)]


@pytest.mark.parametrize(
    "line, said",
    [
        ("fo", "no command 'fo' (commands: train, sample, reconstruct, encode, convert, inspect, ema, check, show,"),
        ("chek --seed 1", "no command 'chek'; did you mean 'check'?"),
        ("--seed 1 trane", "no command 'trane'; did you mean 'train'?"),
        ("a=1 b", "no command 'b'"),
        ("--sede 3", "No such option"),
        ("--seed x", "'x' is not a valid integer"),
        ("--train-steps 0", "0 is not in the range x>=1"),
        ("train 5", "unexpected argument '5'; a setting is KEY=VALUE"),
        ("new gadget x", "'gadget' is not one of"),
        ("sample", "nothing to sample from; give a run's folder, or weights by path or URL"),
        ("reconstruct a", "Missing argument 'IMAGES...'"),
    ],
)
def test_usage_errors(calls: list[Any], capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert said in " ".join(err.split())
    assert out == ""
    assert calls == []


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ldm-run {__version__}\n"
    assert main(["-h"]) == 0
    assert capsys.readouterr().out.startswith("Usage: ldm-run [OPTIONS] [KEY=VALUE]... [COMMAND ...]\n")
    assert main(["train", "--help"]) == 0
    assert "Usage: ldm-run train [OPTIONS] [KEY=VALUE]..." in capsys.readouterr().out


def _raising(error: BaseException) -> Callable[..., int]:
    def fake(*_: Any) -> int:
        raise error

    return fake


@pytest.mark.parametrize(
    "error, code, err",
    [
        (ConfigError(["seed: one", "b: two\nand more"]), 2, "error: seed: one\nerror: b: two\n       and more\n"),
        (DataError("no images"), 2, "error: no images\n"),
        (
            Interrupted("stopped at step 7"),
            130,
            "interrupted: stopped at step 7\nrun the same command again to go on from there\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, err: str
) -> None:
    from ldm_core.cli import run

    monkeypatch.setattr(run, "run_stages", _raising(error))
    assert main([]) == code
    assert capsys.readouterr().err.lstrip("\n") == err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_core.cli import run

    monkeypatch.setattr(run, "run_stages", _raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main([])


def test_an_error_without_words_is_named() -> None:
    assert error_lines(LDMError()) == ["error: LDMError"]
