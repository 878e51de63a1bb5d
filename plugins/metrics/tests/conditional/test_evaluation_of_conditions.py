"""An evaluation of kept samples by what a detector and a segmenter wrote for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_runs import DENOISER, evaluated, refused
from PIL import Image
from training_runs import VQ, go

LAYOUT = {"use": "bbox_layout", "width": 8, "layers": 1, "objects": 4, "vocab_size": 66, "heads": 2, "dropout": 0.1}


def test_files_about_kept_samples_are_found_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache" / "weights"))
    run, out = tmp_path / "run", tmp_path / "out"
    go(run, first_stage=VQ, conditioners=[LAYOUT, {"use": "semantic_map"}], stages=DENOISER)
    arguments = [run, "--images", 5, "--steps", 2, "--keep", "--out", out]
    evaluated(capsys, *arguments, "--metrics", "nearest")
    kept = sorted((out / "samples").rglob("*.png"))
    assert [int(path.stem) for path in kept] == list(range(5))
    kinds = range(8)
    found = [
        {"image_id": path.name, "category_id": k, "bbox": [0, 0, 16, 16], "score": 0.9} for path in kept for k in kinds
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    (tmp_path / "maps").mkdir()
    for path in kept:
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "maps" / path.name)
    settings = [f"box_score.detections={tmp_path / 'found.json'}", f"label_map_iou.maps={tmp_path / 'maps'}"]
    names = ["--metrics", "box_score,label_map_iou"]
    boxes, maps = evaluated(capsys, *arguments, *names, *settings, "label_map_iou.classes=32")["metrics"]
    assert (boxes["of"], boxes["pictures"], maps["of"]) == ("samples", 5, "samples")
    # the whole picture was detected for each class: the overlap is the area of the boxes asked for
    assert 0 < boxes["values"]["box_iou"]["value"] < 1
    # and everything was seen as class 0, the background of the shapes
    assert 0 < maps["values"]["label_map_accuracy"]["value"] < 1
    kept_map = tmp_path / "maps" / kept[3].name
    kept_map.unlink()
    said = refused(capsys, *arguments, *names, *settings, "label_map_iou.classes=32")
    assert "no map of picture 3" in said
