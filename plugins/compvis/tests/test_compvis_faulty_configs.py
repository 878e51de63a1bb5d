"""Conditioners that the file lacks, and configurations beside a file with values of the wrong type: clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from compvis_files import saved
from test_compvis_reading import CONFIG, GIVEN, catalog, small_model

from ldm_core.contracts.codec import ModelWeights
from ldm_core.errors import CheckpointError, ConfigError, LDMError
from ldm_core.weights.codecs import read
from ldm_core.weights.source import open_source

OWN: dict[str, Any] = {
    "image_size": 32,
    "image_channels": 3,
    "first_stage": {"use": "kl_ae", "channels": 32, "channel_mult": [1, 2, 4], "res_blocks": 1, "attention": [2]},
    "conditioners": [],
    "denoiser": {"use": "unet", "channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2},
    "parameterization": {"use": "eps"},
    "class_names": {"class_label": ["a"]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("faulty") / "model.ckpt", small_model())


def described(model: Path, own: Any, plain: Any = None) -> ModelWeights:
    """The model with this configuration beside it."""
    text = yaml.safe_dump({**(plain or {"model": {"params": {}}}), "ldm_core": own})
    (model.parent / "model.yaml").write_text(text)
    return read(open_source(str(model), {}), catalog())


@pytest.mark.parametrize("given", [["text"], "text", [{"use": "text", "vocab_size": 8}], {"text": {"tokenizer": "x"}}])
def test_a_conditioner_that_the_file_lacks(model: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match=r"'text' was named without its .*; the file holds no conditioner"):
        read(open_source(str(model), {**GIVEN, "conditioners": given}), catalog())


def test_a_configuration_of_ours_is_taken(model: Path) -> None:
    assert described(model, OWN).recipe["denoiser"]["heads"] == 2


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("denoiser", "channel_mult", {}),
        ("denoiser", "channel_mult", {"use": 3}),
        ("denoiser", "channel_mult", "x"),
        ("denoiser", "channel_mult", [{}]),
        ("denoiser", "channel_mult", None),
        ("denoiser", "heads", {}),
        ("denoiser", "heads", [1]),
        ("denoiser", "dropout", "much"),
        ("first_stage", "channel_mult", {}),
        ("first_stage", "z_channels", "x"),
        ("first_stage", "res_blocks", [[1]]),
    ],
)
def test_a_field_of_the_wrong_type_is_named(model: Path, part: str, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.ckpt: its configuration .*{part}\.{field}") as raised:
        described(model, {**OWN, part: {**OWN[part], field: value}})
    assert "Error" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", {}),
        ("image_size", [[1]]),
        ("image_channels", "x"),
        ("conditioners", {"a": 3}),
        ("conditioners", [{}]),
        ("conditioners", [{"use": "text", "name": 3}]),
        ("denoiser", 3),
        ("denoiser", {"use": 3}),
        ("denoiser", {"use": "unet", 3: 4}),
        ("parameterization", []),
    ],
)
def test_a_configuration_without_the_form_of_one_is_left_aside(model: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"nothing says denoiser\.heads"):
        described(model, {**OWN, key: value})


@pytest.mark.parametrize("value", [{}, [], "x", -1, None, [{}], {3: 4}, float("inf"), True])
@pytest.mark.parametrize("key", ["parameterization", "loss_type", "linear_start", "image_size", "scale_factor"])
def test_a_configuration_of_other_programs_never_ends_in_a_traceback(model: Path, key: str, value: Any) -> None:
    params = {**CONFIG["model"]["params"], key: value}
    try:
        described(model, {}, {"model": {"params": params}})
    except LDMError as error:
        assert "Error" not in str(error)
