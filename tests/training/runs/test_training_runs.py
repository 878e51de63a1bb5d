"""Whole trainings: resume, ZeRO stages, accumulation, processes, skipping, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ranks import on_ranks
from torch import Tensor
from training_runs import TINY, VQ, Watch, go, weights

from ldm_core.catalog import Catalog
from ldm_core.errors import ComponentError, ConfigError, Interrupted, TrainingError
from ldm_core.training import workflow

MODEL = ("first_stage", "latents", "denoiser")


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k].float() - b[k].float()).abs().max()) for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    go(out, stages=MODEL)
    return out


def test_a_stopped_denoiser_run_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped at step 3 of 8 with a checkpoint"):
        go(tmp_path, stages=MODEL, watch=Watch(stop=("denoiser", 3)))
    assert not (tmp_path / "model.safetensors").exists()
    again = go(tmp_path, stages=MODEL)
    assert ("denoiser", 4) in again.steps and ("denoiser", 3) not in again.steps
    assert "denoiser: goes on from step 3 of 8, by its checkpoint" in again.messages
    assert ("first_stage", "skipped") in again.ends
    assert _equal(weights(whole), weights(tmp_path))


def test_dropout_is_a_function_of_the_recipe_and_the_step(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"denoiser": {**TINY["denoiser"], "dropout": 0.4}, "stages": MODEL}
    go(tmp_path / "a", **changes)
    with pytest.raises(Interrupted):
        go(tmp_path / "b", **changes, watch=Watch(stop=("denoiser", 3)))
    torch.rand(3)  # what others draw in between does not matter
    go(tmp_path / "b", **changes)
    assert _equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_stopped_adversarial_run_ends_bit_identical(tmp_path: Path) -> None:
    stages = ("first_stage",)
    one = go(tmp_path / "a", stages=stages, first_stage=VQ)
    assert len(one.losses["first_stage"]) == 6
    with pytest.raises(Interrupted):
        go(tmp_path / "b", stages=stages, first_stage=VQ, watch=Watch(stop=("first_stage", 4)))
    go(tmp_path / "b", stages=stages, first_stage=VQ)
    a, b = (weights(tmp_path / n, "first_stage.safetensors") for n in "ab")
    assert _equal(a, b)
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["stage"] == "first_stage"]
    assert ["discriminator" in r for r in trained] == [False, False, True, True, True, True]  # starts at batch 2


@pytest.mark.parametrize("stop", [2, 5])
def test_a_codebook_that_comes_in_later_goes_on_by_its_own_steps(tmp_path: Path, stop: int) -> None:
    """Before its batch, and three steps after it: AdamW counts the codes' steps, not those of the network."""
    settings = ("first_stage_trainer.codebook_start=3", "first_stage_trainer.adversarial=false")
    stages = ("first_stage",)
    go(tmp_path / "a", *settings, stages=stages, first_stage=VQ)
    with pytest.raises(Interrupted):
        go(tmp_path / "b", *settings, stages=stages, first_stage=VQ, watch=Watch(stop=("first_stage", stop)))
    go(tmp_path / "b", *settings, stages=stages, first_stage=VQ)
    a, b = (weights(tmp_path / n, "first_stage.safetensors") for n in "ab")
    assert _equal(a, b)


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_stages_train_the_same_model(whole: Path, tmp_path: Path, zero: int) -> None:
    go(tmp_path, f"trainer.zero={zero}", stages=MODEL)
    assert _distance(weights(whole), weights(tmp_path)) < 1e-5


def test_a_checkpoint_crosses_zero_stages(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go(tmp_path, "trainer.zero=2", stages=MODEL, watch=Watch(stop=("denoiser", 4)))
    go(tmp_path, "trainer.zero=0", stages=MODEL)
    assert _distance(weights(whole), weights(tmp_path)) < 1e-5


def test_a_checkpoint_resumes_under_zero(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go(tmp_path, stages=MODEL, watch=Watch(stop=("denoiser", 4)))
    go(tmp_path, "trainer.zero=2", stages=MODEL)
    assert _distance(weights(whole), weights(tmp_path)) < 1e-5


def test_accumulation_trains_the_same_model(whole: Path, tmp_path: Path) -> None:
    go(tmp_path, "trainer.accumulate=2", stages=MODEL)
    assert _distance(weights(whole), weights(tmp_path)) < 1e-5


def test_two_processes_train_the_same_model(whole: Path, tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(f"from training_runs import go\ngo({str(tmp_path)!r}, stages={MODEL!r})\n")
    on_ranks(script)
    assert _distance(weights(whole), weights(tmp_path)) < 1e-5


def test_the_averaged_text_encoder_is_in_the_model_file(tmp_path: Path) -> None:
    text = {"use": "text", "width": 16, "layers": 1, "heads": 2, "head_width": 8, "vocab_size": 128, "length": 24}
    go(tmp_path, stages=MODEL, conditioners=[{**text, "logits": False, "dropout": 0.2}])
    tensors = weights(tmp_path)
    name = "conditioners.text.transformer.token_emb.weight"
    (newest,) = (tmp_path / "checkpoints" / "denoiser").glob("step-00000008-*")
    checkpoint = weights(newest, "state-00000.safetensors")
    assert torch.equal(tensors[name], checkpoint[f"ema/model.{name}"])
    assert not torch.equal(tensors[name], checkpoint[f"model/state/model.{name}"])
    assert tensors["conditioners.text._extra_state"].numel() > 1000  # the tokenizer that was trained on the captions


def test_a_frozen_conditioner_stays_as_it_was(tmp_path: Path) -> None:
    part = {"use": "class_label", "width": 16, "dropout": 0.1}
    name = "conditioners.class_label.embedding.weight"
    go(tmp_path / "a", stages=MODEL, conditioners=[{**part, "train": False}])
    go(tmp_path / "b", "trainer.steps=1", stages=MODEL, conditioners=[{**part, "train": False}])
    go(tmp_path / "c", stages=MODEL, conditioners=[part])
    a, b, c = (weights(tmp_path / n)[name] for n in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_finished_stages_are_skipped_and_samples_may_change(tmp_path: Path) -> None:
    go(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    again = go(tmp_path, "sample.steps=2")
    assert {s for s, status in again.ends if status == "skipped"} >= {"first_stage", "denoiser"}
    assert ("samples", "done") in again.ends
    (tmp_path / "samples" / "mine.png").write_bytes(b"")
    go(tmp_path, "sample.steps=2", "sample.images=1")
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["0000.png", "mine.png"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_sampler_that_does_not_import_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.discover()
    recipe, info = workflow.prepare(TINY, catalog)
    entry, _ = catalog.get("sampler", recipe.sampler.use)
    broken = attrs.evolve(entry, component=attrs.evolve(entry.component, factory="no_such_module:Sampler"))
    monkeypatch.setitem(catalog._entries, ("sampler", recipe.sampler.use), [broken])
    with pytest.raises(ComponentError, match="sampler 'ddpm' of ldm-core does not import: ModuleNotFoundError"):
        workflow.run(recipe, info, catalog, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_another_recipe_in_the_same_folder_is_refused(whole: Path) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in whole.iterdir())
    said = r"another recipe \(trainer\.lr: 0\.001 there, 0\.002 now\); give another folder"
    with pytest.raises(ConfigError, match=said):
        go(whole, "trainer.lr=2e-3", stages=MODEL)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in whole.iterdir()) == before


def test_a_damaged_checkpoint_is_named_and_passed_over(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go(tmp_path, "trainer.checkpoint_every=2", stages=MODEL, watch=Watch(stop=("denoiser", 4)))
    (folder,) = (tmp_path / "checkpoints" / "denoiser").glob("step-00000004-*")
    newest = folder / "state-00000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    watch = go(tmp_path, "trainer.checkpoint_every=2", stages=MODEL)
    assert any(f"{folder.name} is damaged and passed over" in m for m in watch.messages)
    assert ("denoiser", 3) in watch.steps  # went on from step 2
    assert _equal(weights(whole), weights(tmp_path))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d"):
        go(tmp_path, "trainer.lr=100", "trainer.weight_decay=1e4", "trainer.clip=0.0", stages=MODEL)
    assert not (tmp_path / "model.safetensors").exists()


def test_mirrored_latents_come_from_the_cache(tmp_path: Path) -> None:
    """With flips the cache holds both variants; training on it equals training on images."""
    go(tmp_path / "a", "data.flip=true", stages=MODEL, first_stage=VQ)
    go(tmp_path / "b", "data.flip=true", "trainer.cache_latents=false", stages=MODEL, first_stage=VQ)
    (folder,) = (tmp_path / "a" / "latents").iterdir()
    moments = weights(folder, "shard-00000.safetensors")["moments"]
    assert moments.shape[0] == 2 and not torch.equal(moments[0], moments[1])
    assert _distance(weights(tmp_path / "a"), weights(tmp_path / "b")) < 1e-4


@pytest.mark.parametrize("zero", [0, 2])
def test_a_codebook_starts_from_data_at_its_batch(tmp_path: Path, zero: int) -> None:
    """Before its batch the latents pass unquantised; at it the codes are latents of the data, under ZeRO too."""
    changes = [f"first_stage_trainer.zero={zero}", "first_stage_trainer.codebook_start=3"]
    go(tmp_path, *changes, "first_stage_trainer.adversarial=false", stages=("first_stage",), first_stage=VQ)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["stage"] == "first_stage"]
    assert ["codebook_used" in r for r in trained] == [False] * 3 + [True] * 3
    assert trained[3]["codebook_used"] > 0.5  # codes that lie where the latents are; far-off ones would be 1/32
    codes = weights(tmp_path, "first_stage.safetensors")["quantize.embedding.weight"]
    assert float(codes.abs().max()) > 2 / 32  # not the uniform start of +-1/32


def test_a_run_shorter_than_the_codebooks_start_still_has_one(tmp_path: Path) -> None:
    """Otherwise the trained stage would decode through its random start, to grey."""
    changes = ["first_stage_trainer.codebook_start=300", "first_stage_trainer.adversarial=false"]
    go(tmp_path, *changes, "seed=123456789012345678901234567890", stages=("first_stage",), first_stage=VQ)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["codebook_used" in r for r in rows if r["stage"] == "first_stage"] == [False] * 5 + [True]
    codes = weights(tmp_path, "first_stage.safetensors")["quantize.embedding.weight"]
    assert float(codes.abs().max()) > 2 / 32  # not the uniform start of +-1/32


def test_dead_codes_are_revived(tmp_path: Path) -> None:
    base = ["first_stage_trainer.adversarial=false", "first_stage_trainer.codebook_init_images=0"]
    go(tmp_path / "a", *base, stages=("first_stage",), first_stage=VQ)
    go(tmp_path / "b", *base, "first_stage_trainer.revive_every=2", stages=("first_stage",), first_stage=VQ)
    used = {}
    for name in "ab":
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        used[name] = next(r["codebook_used"] for r in reversed(rows) if r["stage"] == "first_stage")
    assert used["b"] > 2 * used["a"]


def test_several_conditioners_train_and_sample_together(tmp_path: Path) -> None:
    small = {"width": 16, "layers": 1, "heads": 2, "head_width": 8, "logits": False, "dropout": 0.1}
    text = {"use": "text", "vocab_size": 128, "length": 24, **small}
    boxes = {"use": "bbox_layout", "objects": 4, "vocab_size": 256, "encode_crop": False, **small}
    parts = [text, boxes, {"use": "semantic_map", "dropout": 0.1}]
    watch = go(tmp_path, conditioners=parts, guidance={"use": "cfg", "scale": 2.0}, sampler="ddim")
    assert ("samples", "done") in watch.ends
    tensors = weights(tmp_path)
    names = {k.split(".")[1] for k in tensors if k.startswith("conditioners.")}
    assert names == {"text", "bbox_layout", "semantic_map"}
    assert tensors["denoiser.input_blocks.0.0.weight"].shape[1] == 3 + 3  # the map beside the latents


def test_a_run_lives_at_a_url() -> None:
    from ldm_core import load, storage

    url = "memory://runs/at-a-url"
    go(url)
    names = {f.url.rsplit("at-a-url/", 1)[-1] for f in storage.list_files(url, recursive=True)}
    assert {"recipe.yaml", "model.safetensors", "first_stage.safetensors", "samples.png", "metrics.jsonl"} <= names
    assert load(url).sample(images=1, steps=2)[0].image.shape == (3, 16, 16)


def test_lpips_weights_are_taken_from_a_file(tmp_path: Path) -> None:
    """Where a recipe names LPIPS weights they are used: the loss is that of the plain run plus the distance."""
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in LPIPS().state_dict().items()}, tmp_path / "lpips.safetensors")
    settings = ["first_stage_trainer.adversarial=false", "first_stage_trainer.steps=1"]
    plain = go(tmp_path / "a", *settings, stages=("first_stage",), first_stage=VQ)
    with_lpips = [*settings, f"first_stage_trainer.lpips={tmp_path / 'lpips.safetensors'}"]
    go(tmp_path / "b", *with_lpips, stages=("first_stage",), first_stage=VQ)
    assert any("trained without LPIPS" in m for m in plain.messages)
    a, b = (json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[0]) for n in "ab")
    assert "perceptual" not in a and b["perceptual"] > 0
    assert b["nll"] == pytest.approx(a["nll"] + b["perceptual"], rel=1e-5)
