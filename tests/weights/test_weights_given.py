"""What a user says of foreign weights: a setting of a wrong type is named before a codec computes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_cli_assemble import catalog

from ldm_core import cli
from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import overlay
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.weights.convert import converted
from ldm_core.weights.given import require_pixels, require_settings
from ldm_core.weights.open import Wanted

RECOGNISED = {
    "image_size": [32, 32],
    "denoiser": {"use": "unet", "channels": 32},
    "schedule": "vp",
    "conditioners": [{"use": "text", "scale": 2.0, "dropout": 0.1}],
    "first_stage": {"use": "vq_f4", "weights": "x.safetensors"},
}


def problems(*settings: str) -> tuple[str, ...]:
    given = Wanted.of(settings).given
    try:
        require_pixels(given)
        require_settings(overlay(RECOGNISED, given), given, catalog([("conditioner", "text")]))
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("denoiser.channels=", "denoiser.channels: expected an integer"),
        ("denoiser.channels={}", "denoiser.channels: expected an integer"),
        ("denoiser.channels='64'", "denoiser.channels: expected an integer"),
        ("denoiser.chanels=64", "denoiser.chanels: unknown key"),
        ("denoiser=3", "denoiser: expected a component's name"),
        ("denoiser=null", "denoiser: expected a component's name"),
        ("denoiser=[unet]", "denoiser: expected a component's name"),
        ("schedule.steps=0", "schedule.steps: expected 1 or more"),
        ("schedule.steps=1e9", "schedule.steps: expected at most"),
        ("conditioners=3", "conditioners: expected a component's name"),
        ("conditioners=null", "conditioners: expected a component's name"),
        ("conditioners=[3]", "conditioners[0]: expected a component's name"),
        ("conditioners={}", ""),
        ("conditioners.text.scale=x", "conditioners[0].scale: expected a number"),
        ("conditioners.text=3", "conditioners[0]: expected a component's name"),
        ("image_size={}", "image_size: expected whole numbers"),
        ("image_size=[]", "image_size: expected whole numbers"),
        ("image_size=null", "image_size: expected whole numbers"),
        ("image_size=-64", "image_size: expected whole numbers"),
        ("image_channels=abc", "image_channels: expected whole numbers"),
    ],
)
def test_settings_of_a_wrong_type(setting: str, says: str) -> None:
    found = problems(setting)
    assert [line[: len(says)] for line in found] == [says][: bool(says)]
    assert all(line.isprintable() and len(line) < 400 for line in found)


def test_settings_that_are_right() -> None:
    right = ("denoiser.channels=64", "schedule.steps=500", "image_size=[64,32]", "conditioners.text.dropout=0.2")
    assert problems(*right) == ()
    assert problems("conditioners=[]", "first_stage.channels=3") == ()  # one that is not installed says so itself


@pytest.mark.parametrize("option", ["--guidance", "--sampler", "--time-grid", "--device"])
def test_an_empty_option_is_not_the_default(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Any] = ["sample", "run", option, " "]
    assert cli.main(given) == 2
    assert f"{option}: empty" in capsys.readouterr().err


def test_a_folder_of_anything_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named as a first stage by a slip, such as ``--first-stage ../..``: counted to a limit, and refused."""
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text("x")
    monkeypatch.setattr("ldm_core.weights.source._MOST_FILES", 4)
    monkeypatch.setattr(Path, "rglob", None)
    with pytest.raises(CheckpointError, match="more than 4 files"):
        converted(str(tmp_path), "first_stage.safetensors", Catalog.discover())
