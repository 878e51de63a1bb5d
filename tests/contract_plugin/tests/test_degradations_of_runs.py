"""A degradation of a third party: trained, resumed and sampled, equal with any number of workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from training_runs import TINY, Watch, go, weights

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.data.collate import collate
from ldm_core.data.images import png_bytes
from ldm_core.errors import ConfigError, ContractError, Interrupted
from ldm_core.model.degraded import SPOILT, Degraded, for_conditioners
from ldm_core.model.parts import data_info, make_dataset
from ldm_core.recipe.check import check
from ldm_core.recipe.description import resolve_described
from ldm_core.recipe.resolve import resolve
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.order import Place

SMALL: dict[str, Any] = {"conditioners": [{"use": "small_picture", "degradation": "drizzle"}]}
FEW: dict[str, Any] = {**TINY["trainer"], "steps": 4, "validate_images": 4, "validate_every": 2}
PLAIN: dict[str, Any] = {**TINY, **SMALL, "trainer": FEW}
CATALOG = Catalog.discover()


def examples(**changes: Any) -> Examples:
    recipe = resolve({**PLAIN, **changes}, CATALOG)
    data = make_dataset(recipe, CATALOG)
    return Examples(data, (16, 16), recipe.data, ["image", *recipe.reads], Degraded.of(recipe, CATALOG))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_example_has_the_picture_and_the_spoilt_one() -> None:
    made = examples()
    at = lambda epoch, index: made[Place(epoch, index, False)]  # noqa: E731
    one = at(0, 3)
    assert one["image"].shape == (3, 16, 16) and one[SPOILT].shape == (3, 8, 8) and made.keys[SPOILT] == "image"
    assert np.array_equal(at(0, 3)[SPOILT], one[SPOILT])
    drawn = {at(epoch, 3)[SPOILT].tobytes() for epoch in range(12)}
    assert len(drawn) > 1  # one of four places in each epoch
    assert all(np.array_equal(at(0, 3)["image"], at(e, 3)["image"]) for e in range(3))
    seen = for_conditioners(collate([one], made.keys))
    assert seen.keys() == one.keys() - {SPOILT} and seen["image"].shape == (1, 3, 8, 8)
    assert float(seen["image"].min()) >= -1 and seen["image"].dtype == torch.float32


def test_a_measured_picture_has_one_degradation_whatever_the_seed() -> None:
    one, other = examples(seed=1), examples(seed=2)
    assert all(np.array_equal(one[i][SPOILT], other[i][SPOILT]) for i in range(8))
    places = [Place(0, i, False) for i in range(8)]
    assert any(not np.array_equal(one[p][SPOILT], other[p][SPOILT]) for p in places)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("run")
    go(out, **SMALL, trainer=FEW)
    return str(out)


def test_workers_make_the_same(run: str, tmp_path: Path) -> None:
    for workers in (1, 2):
        go(tmp_path / str(workers), **SMALL, trainer=FEW, data={"workers": workers}, stages=("first_stage", "denoiser"))
        assert same(weights(tmp_path / str(workers)), weights(run))


def test_a_run_goes_on_bit_for_bit(run: str, tmp_path: Path) -> None:
    often = {**FEW, "checkpoint_every": 1}
    with pytest.raises(Interrupted):
        go(tmp_path, **SMALL, trainer=often, watch=Watch(stop=("denoiser", 2)))
    assert not (tmp_path / "model.safetensors").exists()
    go(tmp_path, **SMALL, trainer=often)
    assert same(weights(tmp_path), weights(run))


def test_the_spoilt_picture_is_given_in_sampling(run: str, tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    (tmp_path / "small.png").write_bytes(png_bytes(small))
    line = ["sample", run, "--input", f"image=@{tmp_path / 'small.png'}", "--images", "2", "--out", str(tmp_path / "o")]
    assert main(line) == 0
    made = sorted((tmp_path / "o").glob("0*.png"))
    pipeline = ldm_core.load(run, device="cpu")
    again = pipeline.sample(inputs={"image": small}, images=2)
    assert len(made) == 2 and not np.array_equal(again[0].image, again[1].image)
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(made[0])).transpose(2, 0, 1), again[0].image)


def test_a_file_goes_without_what_is_not_installed() -> None:
    recipe = resolve(PLAIN, CATALOG)
    carried = recipe.carried()
    assert carried["conditioners"][0]["degradation"] == {"use": "drizzle"}
    assert resolve_described(carried, CATALOG).conditioners[0].degradation is not None
    carried["conditioners"][0]["degradation"] = {"use": "not_here"}
    assert resolve_described(carried, CATALOG).conditioners[0].degradation is None


def test_recipes_without_one_are_as_they_were() -> None:
    plain = resolve({**PLAIN, "conditioners": ["low_resolution"]}, CATALOG)
    assert "degradation" not in plain.plain()["conditioners"][0] and not plain.made
    assert resolve(resolve(PLAIN, CATALOG).plain(), CATALOG) == resolve(PLAIN, CATALOG)
    other = resolve({**PLAIN, "conditioners": ["small_picture"]}, CATALOG)
    assert resolve(PLAIN, CATALOG).identity() != other.identity()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"use": "small_picture", "degradation": "half"}], "makes 'mask', and the conditioner takes image; choose"),
        ([{"use": "class_label", "degradation": "half"}], "takes nothing that is made"),
        (
            [SMALL["conditioners"][0], {"use": "low_resolution"}],
            "takes the place of 'image', which conditioner 'low_resolution' reads as it is",
        ),
        (
            [SMALL["conditioners"][0], {"use": "low_resolution", "degradation": "bicubic"}],
            "of conditioner 'low_resolution' makes 'image', as that of 'small_picture' does",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_a_run(rows: list[Any], message: str) -> None:
    recipe = resolve({**PLAIN, "conditioners": rows}, CATALOG)
    with pytest.raises(ConfigError, match=message):
        check(recipe, data_info(make_dataset(recipe, CATALOG)))


def test_a_slip_in_its_settings_has_its_place() -> None:
    wrong = {"use": "small_picture", "degradation": {"use": "drizzle", "amount": 3}}
    with pytest.raises(ConfigError, match=r"conditioners\[0\]\.degradation\.amount: unknown key"):
        resolve({**PLAIN, "conditioners": [wrong]}, CATALOG)
    with pytest.raises(ConfigError, match=r"conditioners\[0\].*'drizle'.*drizzle"):
        resolve({**PLAIN, "conditioners": [{"use": "small_picture", "degradation": "drizle"}]}, CATALOG)


def test_a_part_that_breaks_its_contract_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_contract_plugin.optional.drizzle import Drizzle

    monkeypatch.setattr(Drizzle, "degrade", lambda self, picture, size, random: picture)
    told = r"degradation 'drizzle'.*made uint8 \(3, 16, 16\).*expected: uint8 \(3, 8, 8\)"
    with pytest.raises(ContractError, match=told):
        examples()[0]


def test_samples_that_are_measured_have_spoilt_inputs(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``evaluate`` spoils the run's held-out pictures, the same each time."""
    numbers = []
    for name in ("one", "other"):
        out = tmp_path / name
        line = ["evaluate", run, "--metrics", "brightness", "--images", "4", "--out", str(out), "--json"]
        assert main(line) == 0
        found = json.loads(capsys.readouterr().out)
        numbers.append(found["metrics"][0]["values"]["brightness"]["value"])
    assert numbers[0] == numbers[1]
