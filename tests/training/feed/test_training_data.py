"""What the model is trained on: each image with its own annotations, moved as the image was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_runs import TINY, go

from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.errors import DataError
from ldm_core.recipe.settings import DataSettings
from ldm_core.training import workflow
from ldm_core.training.context import RunContext
from ldm_core.training.denoiser.fit import fit_conditioners
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.order import Place
from ldm_core.training.finetune import Start

BOX = [0.25, 0.5, 0.25, 0.25]
TEXT = {"use": "text", "width": 16, "layers": 1, "heads": 2, "head_width": 8, "vocab_size": 64, "length": 16,
        "logits": False}  # fmt: skip


def _pictures(folder: Path, captioned: Any, size: tuple[int, int] = (16, 16)) -> Path:
    """Twelve pictures, picture i of one grey (20 i) with the caption "grey i" where `captioned`, and a box."""
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", size, (20 * i,) * 3).save(folder / f"{i:02d}.png")
        if captioned(i):
            (folder / f"{i:02d}.txt").write_text(f"grey {i}")
        (folder / f"{i:02d}.json").write_text(json.dumps({"boxes": [BOX], "box_labels": [0]}))
    return folder


def test_boxes_follow_the_crop_where_only_they_are_asked_for(tmp_path: Path) -> None:
    """Latents are cached, so the image is not loaded; its boxes are those of the cropped image all the same."""
    config = FolderConfig(url=str(_pictures(tmp_path / "wide", lambda i: True, size=(32, 16))), box_format="xywh")
    data = FolderDataset(config, Site(size=(16, 16), channels=3))
    both, alone = (Examples(data, (16, 16), DataSettings(), keys) for keys in (["image", "boxes"], ["boxes"]))
    for flip, x in ((False, 0.0), (True, 0.5)):  # the middle half is kept: x' = 2 x - 0.5, mirrored 1 - x' - w'
        place = Place(0, 3, flip)
        np.testing.assert_allclose(alone[place]["boxes"], [[x, 0.5, 0.5, 0.25]], atol=1e-6)
        np.testing.assert_array_equal(alone[place]["boxes"], both[place]["boxes"])
    assert set(alone[place]) == {"boxes"} and dict(alone.keys) == {"boxes": "boxes"}


def test_cached_latents_keep_their_captions_where_samples_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(_pictures(tmp_path / "some", lambda i: i % 3 != 0))
    seen: list[tuple[float, str]] = []
    from ldm_core.training.denoiser import task

    step = task.DenoiserTask.step

    def spy(self: Any, number: int, micros: Any, *, measure: bool) -> Any:
        for micro in micros:
            for moments, caption in zip(micro.batch["moments"], micro.batch["caption"], strict=True):
                seen.append((float(moments.mean()), caption))
        return step(self, number, micros, measure=measure)

    monkeypatch.setattr(task.DenoiserTask, "step", spy)
    stages = ("first_stage", "latents", "denoiser")
    data = {"use": "folder", "url": url, "missing": "skip"}
    go(tmp_path / "run", dataset=data, conditioners=[TEXT], stages=stages)
    assert {caption for _, caption in seen} == {f"grey {i}" for i in range(12) if i % 3}
    for mean, caption in seen:
        assert mean == pytest.approx(20 * int(caption.split()[1]) / 127.5 - 1, abs=1e-5)


def test_a_missing_caption_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    url = str(_pictures(tmp_path / "some", lambda i: i != 5))
    plain = {**TINY, "dataset": {"use": "folder", "url": url}, "conditioners": [TEXT]}
    with pytest.raises(DataError, match=r"1 of 12 samples have no 'caption' \(05\.png\)"):
        workflow.prepare(plain, Catalog.discover())


def test_a_tokenizer_is_fitted_past_an_unreadable_caption(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "some", lambda i: True)
    (folder / "05.txt").write_bytes(b"\xff\xfe\x00grey")
    plain = {**TINY, "dataset": {"use": "folder", "url": str(folder)}, "conditioners": [TEXT]}
    recipe, info = workflow.prepare(plain, Catalog.discover())
    fitted: list[str] = []

    class Fits:
        def fit(self, examples: Any) -> None:
            fitted.extend(e["caption"] for e in examples)

    context = RunContext(recipe, info, Catalog.discover(), str(tmp_path / "run"))
    model: Any = type("Model", (), {"conditioners": {"text": Fits()}})
    fit_conditioners(context, model, Start(), {})
    assert fitted == [f"grey {6 if i == 5 else i}" for i in range(12)]


def test_images_smaller_than_ssims_window_train(tmp_path: Path) -> None:
    """One grey channel, eight pixels a side, five examples for steps of four: nothing needs more."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for i in range(5):
        Image.new("L", (9, 7), 40 * i).save(folder / f"{i}.png")
    watch = go(
        tmp_path / "run",
        "first_stage.channels=1",
        image_size=8,
        image_channels=1,
        dataset={"use": "folder", "url": str(folder)},
    )
    assert any("PSNR 100.00 dB" in m and "on 5 training images" in m for m in watch.messages)
    assert Image.open(tmp_path / "run" / "samples" / "0000.png").mode == "L"


def test_held_out_pictures_without_captions_do_not_end_a_run(tmp_path: Path) -> None:
    """The samples then take their captions from the training data; the first stage is still judged on held-out ones."""
    from ldm_core.data import images

    for split, captions in (("train", 8), ("val", 1)):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        for i in range(8):
            picture = np.full((3, 16, 16), 20 * i, np.uint8)
            (folder / f"{i}.png").write_bytes(images.png_bytes(picture))
            if i < captions:
                (folder / f"{i}.txt").write_text(f"grey number {i}")
    text = {"use": "text", "width": 16, "layers": 1, "heads": 2, "head_width": 8, "vocab_size": 64, "length": 16}
    data = {"use": "folder", "url": str(tmp_path / "data")}
    watch = go(tmp_path / "run", dataset=data, conditioners=[{**text, "logits": False, "dropout": 0.1}])
    assert ("samples", "done") in watch.ends
    assert any("held-out images" in m for m in watch.messages)
