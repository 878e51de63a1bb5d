"""Finetuning from one list of boxes' classes to another: rows of the shared vocabulary go by the classes' names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from training_runs import go

from ldm_core.recipe import artifacts
from ldm_core.training import finetune

MODEL = ("first_stage", "latents", "denoiser")


def test_classes_of_boxes_go_by_their_names_within_a_vocabulary() -> None:
    """Cat, dog -> dog, eel, cat of a vocabulary of six: two rows by name, one fresh, all behind by place."""
    theirs, own = torch.arange(6.0)[:, None], torch.full((6, 1), -1.0)
    made = finetune._by_class(own, theirs, 0, ("cat", "dog"), ("dog", "eel", "cat"))
    assert made is not None and made[1] == "2 of 3 classes by name"
    assert made[0][:, 0].tolist() == [1, -1, 0, 3, 4, 5]
    fewer = finetune._by_class(own, theirs, 0, ("cat", "dog", "eel"), ("eel",))
    assert fewer is not None and fewer[0][:, 0].tolist() == [2, 1, 2, 3, 4, 5]
    assert finetune._by_class(own[:4], theirs, 0, ("cat", "dog"), ("dog", "eel", "cat"))[0][:, 0].tolist() == [  # type: ignore[index]
        1, -1, 0, -1
    ]  # fmt: skip


def test_a_layout_names_its_table_of_classes(tmp_path: Path) -> None:
    """Through a run: boxes of the embedded scenes, and those of a folder with some of their classes."""
    layout = {"use": "bbox_layout", "objects": 3, "vocab_size": 64, "width": 8, "layers": 1, "heads": 1,
              "head_width": 8, "dropout": 0.1}  # fmt: skip
    go(tmp_path / "a", "trainer.steps=1", stages=MODEL, conditioners=[layout])
    names = ["red circle", "of no scene"]
    Image.new("RGB", (16, 16)).save(folder_of(tmp_path / "now") / "a.png")
    (tmp_path / "now" / "a.json").write_text(json.dumps({"boxes": [[0, 0, 0.5, 0.5]], "labels": [names[0]]}))
    (tmp_path / "now" / "classes.json").write_text(json.dumps(names))
    watch = go(tmp_path / "b", "trainer.steps=1", f"trainer.init_from={tmp_path / 'a'}", stages=MODEL,
               first_stage=str(tmp_path / "a"), conditioners=[layout],
               dataset={"use": "folder", "url": str(tmp_path / "now")})  # fmt: skip
    header = artifacts.read_header(str(tmp_path / "b" / "model.safetensors"), "model")
    table = "conditioners.bbox_layout.transformer.token_emb.weight"
    assert header.extra["started"]["adapted"] == {table: "1 of 2 classes by name"}
    assert any("1 of 2 classes by name" in m for m in watch.messages)


def folder_of(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
