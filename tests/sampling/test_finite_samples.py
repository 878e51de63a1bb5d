"""Latents and pictures that are not finite: an error with seeds and advice, and what is sound is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assembled import STAGES, assembled
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor
from training_runs import Watch, go

from ldm_core.errors import DataError, LDMError, NotFiniteError
from ldm_core.sampling.finite import finite_rows
from ldm_core.sampling.image_to_image import Start
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training.samples import sheets

NAN, INF = float("nan"), float("inf")


def _spoil_at(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, rows: dict[int, float], *, decode: bool) -> None:
    """Let rows of each batch come out of the last step, or of the decoder, as this number."""

    def spoilt(values: Tensor) -> Tensor:
        out = values.clone()
        for row, number in rows.items():
            if row < len(out):
                out[row].view(-1)[0] = number
        return out

    if decode:
        true = pipeline.stage.decode
        monkeypatch.setattr(pipeline.stage, "decode", lambda z: spoilt(true(z)))
        return
    parts = pipeline._parts(pipeline.recipe)
    run = parts.sampler.sample
    monkeypatch.setattr(type(parts.sampler), "sample", lambda self, *args, **more: spoilt(run(*args, **more)))


def test_rows_are_told_apart() -> None:
    values = torch.randn(5, 3, 4, 4)
    assert finite_rows(values).tolist() == [True] * 5
    values[1, 2, 3, 3], values[3, 0, 0, 0], values[4] = NAN, -INF, 3e38  # a sum that overflows is no fault
    assert finite_rows(values).tolist() == [True, False, True, False, True]
    assert finite_rows(values[:, :0]).tolist() == [True] * 5


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_latents_that_are_not_finite_make_no_picture(
    stage: str, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = assembled(stage)
    _spoil_at(pipeline, monkeypatch, {1: number}, decode=False)
    with pytest.raises(NotFiniteError, match=r"seed 8: the latents came out not finite.*guidance scale \(it is 5\)"):
        pipeline.sample(inputs={"class_label": 1}, seed=7, images=3)


@pytest.mark.parametrize("number", [NAN, INF])
def test_pictures_that_are_not_finite_name_their_seeds(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = assembled("KL")
    _spoil_at(pipeline, monkeypatch, {0: number, 2: number}, decode=True)
    with pytest.raises(NotFiniteError, match=r"seeds 30, 10: the pictures came out") as told:
        pipeline.sample(inputs={"class_label": 0}, seed=[30, 20, 10])
    assert told.value.seeds == (30, 10)


def test_what_is_sound_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the batches before, and of the same batch."""
    sound = assembled().sample(inputs={"class_label": 2}, seed=0, images=6, batch=2)
    pipeline = assembled()
    true, calls = pipeline.stage.decode, []

    def decode(z: Tensor) -> Tensor:
        calls.append(len(z))
        out: Tensor = true(z).clone()
        if len(calls) == 2:
            out[0] = NAN
        return out

    monkeypatch.setattr(pipeline.stage, "decode", decode)
    with pytest.raises(NotFiniteError) as told:
        pipeline.sample(inputs={"class_label": 2}, seed=0, images=6, batch=2)
    assert calls == [2, 2], "it goes no further than the batch in which it shows"
    assert [s.seed for s in told.value.images] == [0, 1, 3]
    for kept in told.value.images:
        assert np.array_equal(kept.image, sound[kept.seed].image)


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({}, {}, "guidance scale (it is 5)"),
        ({"guidance": "none"}, {}, "weights that are sound"),
        ({}, {"guidance": {"scale": 30.0}}, "(it is 30)"),
    ],
)
def test_advice_is_of_the_settings(
    changes: dict[str, Any], settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = assembled(**changes).with_settings(settings)
    _spoil_at(pipeline, monkeypatch, {0: NAN}, decode=True)
    with pytest.raises(NotFiniteError) as told:
        pipeline.sample(inputs={"class_label": 0}, images=1)
    assert said in str(told.value) and "precision" not in str(told.value)
    assert ("guidance" in str(told.value)) is (changes == {})


def test_half_precision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = assembled()
    pipeline.model.precision = "bf16"
    _spoil_at(pipeline, monkeypatch, {0: NAN}, decode=True)
    with pytest.raises(NotFiniteError, match=r"try precision fp32 \(it is bf16\)"):
        pipeline.sample(inputs={"class_label": 0}, images=1)


@pytest.mark.parametrize("stage", ["KL", "VQ"])
def test_pictures_to_begin_from_and_reconstructions(stage: str) -> None:
    """A first stage of NaN is named before anything is sampled."""
    pipeline = assembled(stage)
    for value in pipeline.stage.parameters():  # type: ignore[attr-defined]
        value.data.fill_(NAN)
    picture = np.zeros((3, 16, 16), dtype=np.uint8)
    with pytest.raises(DataError, match="image 0: the first stage makes latents of it that are not finite"):
        pipeline.sample(inputs={"class_label": 0}, start=Start.image(picture))
    with pytest.raises(NotFiniteError, match=r"image 0: .*weights.describe"):
        pipeline.reconstruct(picture[None])


# ------------------------------------------------------------------------------------------------- a run's own images


def test_a_preview_that_is_not_finite_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise NotFiniteError("seed 0: the latents came out not finite", seeds=(0,))

    monkeypatch.setattr(sheets, "sample", fails)
    watch = Watch()
    with pytest.raises(LDMError, match="seed 0"):  # of the samples at the end
        go(tmp_path, "trainer.steps=2", "trainer.preview_every=1", watch=watch)
    assert sum("no preview at step" in m and "seed 0" in m for m in watch.messages) == 2
    assert ("denoiser", "done") in watch.ends and not list(tmp_path.glob("previews/*.png"))


def test_samples_of_a_run_that_are_sound_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_core.builtin.identity.stage import IdentityFirstStage as Stage

    go(tmp_path, "trainer.steps=1", stages=("first_stage", "latents", "denoiser"))
    true = Stage.decode

    def decode(self: Any, z: Tensor) -> Tensor:
        out: Tensor = true(self, z).clone()
        out[1] = NAN
        return out

    monkeypatch.setattr(Stage, "decode", decode)
    with pytest.raises(NotFiniteError, match="seed 1: the pictures"):
        go(tmp_path, "trainer.steps=1", "sample.images=3", "sample.seed=0")
    assert sorted(p.name for p in (tmp_path / "samples").glob("*.png")) == ["0000.png", "0002.png"]
