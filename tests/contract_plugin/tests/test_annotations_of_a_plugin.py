"""A third party's format of annotations, through the command line: found by its content, trained on, its names kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ldm_core
from ldm_core.cli import main
from ldm_core.data import images

SMALL = [
    "image_size=16", "first_stage=identity", "denoiser.channels=8", "denoiser.channel_mult=[1, 2]",
    "denoiser.attention=[2]", "conditioners.bbox_layout.width=8", "conditioners.bbox_layout.heads=1",
    "conditioners.bbox_layout.head_width=8", "conditioners.bbox_layout.layers=1", "conditioners.bbox_layout.objects=2",
    "trainer.steps=1", "trainer.images_per_step=2", "sample.steps=2", "sample.images=1",
]  # fmt: skip


def test_a_run_on_boxes_of_a_third_partys_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.png").write_bytes(images.png_bytes(np.zeros((3, 16, 16), dtype=np.uint8)))
    listed = "corners of: cat, dog\na.png;dog;1;2;9;9\na.png;cat;0;0;16;16\nb.png;cat;4;4;8;8\nz.png;cat;0;0;1;1\n"
    (tmp_path / "data" / "boxes.lst").write_text(listed)
    asked = "dataset.annotations={use: corner_list, files: boxes.lst, sign: ';'}"
    argv = ["train", "--data", str(tmp_path / "data"), "--cond", "bbox_layout", "--out", str(tmp_path / "run"), *SMALL]
    assert main([*argv, asked]) == 2
    assert "1 of 3 samples have no 'boxes' (c.png)" in " ".join(capsys.readouterr().err.split())
    assert main([*argv, asked, "dataset.missing=skip"]) == 0
    said = capsys.readouterr()
    assert "1 x annotated picture that is not there (z.png)" in " ".join((said.out + said.err).split())
    pipeline = ldm_core.load(str(tmp_path / "run"))
    assert list(pipeline.class_names["box_labels"]) == ["cat", "dog"]
    drawn = pipeline.sample(inputs={"boxes": [[0, 0, 0.5, 0.5]], "box_labels": ["dog"]}, steps=1)
    assert drawn[0].image.shape == (3, 16, 16)
