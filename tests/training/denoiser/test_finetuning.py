"""Finetuning: what is taken of trained weights, what is said of the rest, and that a run starts where they ended."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import TINY, VQ, Watch, go, weights

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import overrides as overrides_
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training import workflow
from ldm_core.training.samples.inputs import SampleInputs

MODEL = ("first_stage", "latents", "denoiser")
CLASSES = {"use": "class_label", "width": 16, "dropout": 0.1}
TEXT = {"use": "text", "width": 16, "layers": 1, "heads": 2, "head_width": 8, "vocab_size": 128, "length": 24,
        "logits": False, "dropout": 0.1}  # fmt: skip
LONG = ("trainer.steps=56", "trainer.lr=3e-3", "trainer.images_per_step=16", "trainer.ema=0.9")
NO_TRAINING = ("trainer.steps=1", "trainer.lr=1e-12", "trainer.weight_decay=0.0")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned something: 16 px, conditioned on captions."""
    out = tmp_path_factory.mktemp("source")
    watch = go(out, *LONG, conditioners=[TEXT], stages=MODEL)
    losses = watch.losses["denoiser"]
    assert sum(losses[-10:]) / 10 < 0.65 * losses[0]
    return out


def _header(out: Path, name: str = artifacts.MODEL_FILE, kind: str = "model") -> artifacts.Header:
    return artifacts.read_header(str(out / name), kind)


def _start(out: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _header(out).extra["started"]
    return found


def _first_loss(out: Path) -> float:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return float(next(r["loss"] for r in rows if r["stage"] == "denoiser"))


def test_a_run_starts_with_the_averaged_weights_to_the_bit(source: Path, tmp_path: Path) -> None:
    """With a learning rate of nothing, what comes out is what went in, tokenizer and all."""
    watch = go(tmp_path, *NO_TRAINING, "trainer.ema=0.0", f"trainer.init_from={source}", conditioners=[TEXT],
               first_stage=str(source), stages=MODEL)  # fmt: skip
    before, after = weights(source), weights(tmp_path)
    assert before.keys() == after.keys()
    assert max(float((before[k].double() - after[k].double()).abs().max()) for k in before) < 1e-9
    said = _start(tmp_path)
    assert (said["taken"], said["share"], said["fresh"]) == (len(before), 1.0, {})
    assert said["sha256"] == _header(source).sha256
    assert any(f"starts from {source}" in m and f"{len(before)} of {len(before)} tensors" in m for m in watch.messages)


def test_the_tensors_that_are_taken_are_equal_to_the_bit(source: Path) -> None:
    from ldm_core.training.finetune import _take

    catalog = Catalog.discover()
    pipeline = Pipeline.load(str(source), device="cpu", catalog=catalog)
    fresh = pipeline.model
    for parameter in fresh.parameters():
        parameter.data.normal_()
    tensors = weights(source)
    found = _take(fresh, tensors, _header(source), "trainer", lambda name, own, theirs: None)
    assert set(found.taken) == set(tensors) and found.share == 1.0
    assert all(torch.equal(v, tensors[k]) for k, v in fresh.state_dict().items())


def test_a_model_is_finetuned_at_a_larger_size(source: Path, tmp_path: Path) -> None:
    """The same weights at 32 px; the loss of its first step is a trained model's and not a fresh one's."""
    changes: dict[str, Any] = {"image_size": 32, "conditioners": [TEXT], "first_stage": str(source), "stages": MODEL}
    go(tmp_path / "tuned", "trainer.steps=2", f"trainer.init_from={source / 'model.safetensors'}", **changes)
    go(tmp_path / "fresh", "trainer.steps=2", **changes)
    assert _start(tmp_path / "tuned")["share"] == 1.0
    assert _first_loss(tmp_path / "tuned") < 0.75 * _first_loss(tmp_path / "fresh")
    assert Pipeline.load(str(tmp_path / "tuned"), device="cpu").sample("x", steps=2)[0].image.shape == (3, 32, 32)


def test_the_first_step_has_the_trained_models_loss(source: Path, tmp_path: Path) -> None:
    start = (f"trainer.init_from={source}", "trainer.steps=1", "trainer.images_per_step=16")
    go(tmp_path, *start, conditioners=[TEXT], first_stage=str(source), stages=MODEL)
    rows = [json.loads(line) for line in (source / "metrics.jsonl").read_text().splitlines()]
    trained = [r["loss"] for r in rows if r["stage"] == "denoiser"]
    last = sum(trained[-10:]) / 10
    assert last < 0.65 * trained[0]
    assert _first_loss(tmp_path) == pytest.approx(last, rel=0.15)  # one batch of sixteen: it scatters


def _folders(root: Path, names: tuple[str, ...], grey: int) -> str:
    from PIL import Image

    for n, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (16, 16), (grey, 40 * n, 10 * i)).save(root / name / f"{i}.png")
    return str(root)


def test_other_classes_take_rows_by_their_names(tmp_path: Path) -> None:
    """Classes ant, bee, cat -> bee, dog, ant, cow: two rows go by name, the null class by its place, two are fresh."""
    before = {"use": "folder", "url": _folders(tmp_path / "before", ("ant", "bee", "cat"), 10)}
    now = {"use": "folder", "url": _folders(tmp_path / "now", ("ant", "bee", "cow", "dog"), 90)}
    go(tmp_path / "a", stages=MODEL, dataset=before, conditioners=[CLASSES])
    changes: dict[str, Any] = {"stages": MODEL, "dataset": now, "conditioners": [CLASSES]}
    stage = str(tmp_path / "a")
    watch = go(tmp_path / "b", *NO_TRAINING, "trainer.ema=0.0", f"trainer.init_from={tmp_path / 'a'}",
               first_stage=stage, **changes)  # fmt: skip
    go(tmp_path / "c", *NO_TRAINING, "trainer.ema=0.0", first_stage=stage, **changes)
    name = "conditioners.class_label.embedding.weight"
    a, b, fresh = (weights(tmp_path / n)[name].double() for n in "abc")
    assert (len(a), len(b)) == (4, 5)
    expected = torch.stack([a[0], a[1], fresh[2], fresh[3], a[3]])
    assert float((b - expected).abs().max()) < 1e-9
    assert _start(tmp_path / "b")["adapted"] == {name: "2 of 4 classes by name"}
    assert any("2 of 4 classes by name" in m for m in watch.messages)


def test_as_many_classes_of_other_names_are_not_mistaken_for_the_same(tmp_path: Path) -> None:
    before = {"use": "folder", "url": _folders(tmp_path / "before", ("ant", "bee"), 10)}
    now = {"use": "folder", "url": _folders(tmp_path / "now", ("bee", "cow"), 90)}
    go(tmp_path / "a", stages=MODEL, dataset=before, conditioners=[CLASSES])
    go(tmp_path / "b", *NO_TRAINING, "trainer.ema=0.0", f"trainer.init_from={tmp_path / 'a'}", stages=MODEL,
       first_stage=str(tmp_path / "a"), dataset=now, conditioners=[CLASSES])  # fmt: skip
    name = "conditioners.class_label.embedding.weight"
    a, b = (weights(tmp_path / n)[name].double() for n in "ab")
    assert float((b[0] - a[1]).abs().max()) < 1e-9 and float((b[2] - a[2]).abs().max()) < 1e-9
    assert float((b[1] - a[0]).abs().max()) > 1e-3


def test_further_input_channels_start_without_effect(tmp_path: Path) -> None:
    """An unconditional model gets a label map on further channels: at first it says what it said before."""
    segments = {"use": "semantic_map", "dropout": 0.1}
    go(tmp_path / "a", stages=MODEL)
    go(tmp_path / "b", *NO_TRAINING, "trainer.ema=0.0", f"trainer.init_from={tmp_path / 'a'}", stages=MODEL,
       first_stage=str(tmp_path / "a"), conditioners=[segments])  # fmt: skip
    a, b = (weights(tmp_path / n) for n in "ab")
    name = "denoiser.input_blocks.0.0.weight"
    assert b[name].shape[1] > 3 == a[name].shape[1]
    assert float((a[name] - b[name][:, :3]).abs().max()) < 1e-6 and float(b[name][:, 3:].abs().max()) < 1e-6
    said = _start(tmp_path / "b")
    assert said["adapted"] == {name: f"{b[name].shape[1] - 3} further input channel(s) from zero"}
    assert all(k.startswith("conditioners.") for k in said["fresh"])


def test_another_context_width_is_not_taken_and_said(source: Path, tmp_path: Path) -> None:
    wide = {**TEXT, "width": 24}
    watch = go(tmp_path, "trainer.steps=1", f"trainer.init_from={source}", conditioners=[wide],
               first_stage=str(source), stages=MODEL)  # fmt: skip
    said = _start(tmp_path)
    keys = [k for k in said["fresh"] if k.endswith("attn2.to_k.weight")]
    assert keys and all(said["fresh"][k] == f"{k_in(source, k)}x16 there, {k_in(source, k)}x24 here" for k in keys)
    text = [k for k in said["fresh"] if k.startswith("conditioners.text.")]
    assert len(text) == len([k for k in weights(tmp_path) if k.startswith("conditioners.text.")])
    assert {said["fresh"][k] for k in text} == {"its vocabulary or sizes are others"}
    assert 0.5 < said["share"] < 1 and any("fresh" in m for m in watch.messages)


def k_in(source: Path, name: str) -> int:
    """Rows of a tensor of the source."""
    return int(weights(source)[name].shape[0])


def test_the_vocabulary_is_taken_with_its_weights(source: Path, tmp_path: Path) -> None:
    """Data with other captions: a tokenizer fitted on it would give the trained rows other words."""
    from PIL import Image

    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i,) * 3).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"zebra number {i} in a quixotic jumble")
    name = "conditioners.text._extra_state"
    changes: dict[str, Any] = {"dataset": {"use": "folder", "url": str(folder)}, "conditioners": [TEXT]}
    go(
        tmp_path / "b",
        "trainer.steps=1",
        f"trainer.init_from={source}",
        first_stage=str(source),
        stages=MODEL,
        **changes,
    )
    assert torch.equal(weights(tmp_path / "b")[name], weights(source)[name])
    go(tmp_path / "c", "trainer.steps=1", first_stage=str(source), stages=MODEL, **changes)
    assert not torch.equal(weights(tmp_path / "c")[name], weights(source)[name])


def test_another_parameterization_is_said(source: Path, tmp_path: Path) -> None:
    watch = go(tmp_path, "trainer.steps=1", f"trainer.init_from={source}", "parameterization=eps",
               conditioners=[TEXT], first_stage=str(source), stages=MODEL)  # fmt: skip
    assert any("the source's parameterization is v, this recipe's is eps" in m for m in watch.messages)


def test_a_model_of_other_latents_is_refused_before_anything_is_trained(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"this recipe trains another one; set first_stage to the folder"):
        go(tmp_path / "a", f"trainer.init_from={source}", conditioners=[TEXT])
    go(tmp_path / "other", "seed=3", "dataset.scenes=20", stages=("first_stage",))
    with pytest.raises(ConfigError, match="was trained on latents of another first stage"):
        go(tmp_path / "b", f"trainer.init_from={source}", conditioners=[TEXT], first_stage=str(tmp_path / "other"))
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_weights_of_which_nothing_fits_are_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"next to nothing of .* fits this recipe \(0\.\d+% of the parameters; e\.g\. denoiser"
    ):
        go(tmp_path, f"trainer.init_from={source}", first_stage=str(source), stages=MODEL,
           denoiser={**TINY["denoiser"], "channels": 12, "heads": 3})  # fmt: skip


def test_a_first_stage_is_finetuned_with_its_codebook(tmp_path: Path) -> None:
    stages = ("first_stage",)
    settings = ("first_stage_trainer.adversarial=false", "first_stage_trainer.steps=3")
    go(tmp_path / "a", *settings, stages=stages, first_stage=VQ)
    still = (*settings, "first_stage_trainer.lr=1e-12", "first_stage_trainer.codebook_start=2")
    watch = go(tmp_path / "b", *still, f"first_stage_trainer.init_from={tmp_path / 'a'}", stages=stages,
               first_stage=VQ, dataset={"use": "shapes", "scenes": 12, "val_scenes": 8})  # fmt: skip
    name = artifacts.STAGE_FILE
    a, b = (weights(tmp_path / n, name) for n in "ab")
    learned = [k for k in a if not k.startswith("latent_")]
    assert max(float((a[k].double() - b[k].double()).abs().max()) for k in learned) < 1e-9  # the codes were not reset
    assert not torch.equal(a["latent_mean"], b["latent_mean"])  # measured on the new data
    rows = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["stage"] == "first_stage"]
    assert all("codebook_used" in r for r in trained)  # it quantises from its first batch
    assert any("first stage: starts from" in m for m in watch.messages)
    assert _header(tmp_path / "b", name, "first_stage").extra["started"]["share"] == 1.0
    with pytest.raises(ConfigError, match="which stays as it is; to finetune it, name its component"):
        go(tmp_path / "c", f"first_stage_trainer.init_from={tmp_path / 'a'}", first_stage=str(tmp_path / "a"))


def _identity(plain: Mapping[str, Any], *overrides: str) -> tuple[str, Mapping[str, Any]]:
    from ldm_core.recipe.resolve import resolve

    values = copy.deepcopy(dict(plain))
    overrides_.apply_overrides(values, overrides, [])
    recipe = resolve(values, Catalog.discover())
    return recipe.identity(), recipe.plain()


def test_identities_hold_the_content_and_not_the_place(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((source / "model.safetensors").read_bytes())
    one, plain = _identity(TINY, f"trainer.init_from={source}")
    two, _ = _identity(TINY, f"trainer.init_from={copy}")
    fresh, _ = _identity(TINY)
    assert one == two != fresh
    assert plain["trainer"]["init_sha256"] == _header(source).sha256
    other = tmp_path / "other.safetensors"
    go(tmp_path / "run", "trainer.steps=1", stages=MODEL)
    other.write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    assert _identity(TINY, f"trainer.init_from={other}")[0] != one
    with pytest.raises(ConfigError, match="is not the file that the recipe was made with"):
        _identity(plain, f"trainer.init_from={other}")
    with pytest.raises(CheckpointError, match="holds a model, not a first stage"):
        _identity(TINY, f"first_stage_trainer.init_from={copy}")


def test_a_finetuned_model_loads_without_its_source(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((source / "model.safetensors").read_bytes())
    go(tmp_path / "run", "trainer.steps=1", f"trainer.init_from={copy}", conditioners=[TEXT], first_stage=str(source),
       stages=MODEL)  # fmt: skip
    copy.unlink()
    carried = _header(tmp_path / "run").config["trainer"]
    assert carried["init_from"] == "" and carried["init_sha256"] == _header(source).sha256
    pipeline = Pipeline.load(str(tmp_path / "run"), device="cpu")
    assert pipeline.sample("a red circle", steps=2)[0].image.shape == (3, 16, 16)
    with pytest.raises(ConfigError, match="a file that it does not name"):
        workflow.prepare(pipeline.recipe.plain(), Catalog.discover())


def test_a_vocabulary_that_is_too_small_is_found_before_the_first_stage_is_trained(tmp_path: Path) -> None:
    small = {**TEXT, "vocab_size": 24}
    watch = Watch()
    with pytest.raises(ConfigError, match="vocab_size: 24 tokens cannot hold"):
        go(tmp_path, conditioners=[small], watch=watch)
    assert not watch.steps and not (tmp_path / artifacts.STAGE_FILE).exists()


def test_a_prompt_that_strict_refuses_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    from ldm_core.errors import DataError

    catalog = Catalog.discover()
    catalog.manager.register(watch := Watch())
    plain = {**TINY, "conditioners": [TEXT], "sample": {"steps": 2, "images": 1, "prompts": ["red circle " * 40]}}
    recipe, info = workflow.prepare(plain, catalog)
    with pytest.raises(DataError, match="the prompt is longer than conditioner 'text' takes"):
        workflow.run(recipe, info, catalog, str(tmp_path / "a"), inputs=SampleInputs(strict=True))
    assert not watch.steps
    with pytest.raises(DataError, match="the prompt is longer"):
        long = [{"caption": "green ring " * 40}]
        workflow.run(*workflow.prepare({**plain, "sample": {"steps": 2}}, catalog), catalog, str(tmp_path / "b"),
                     inputs=SampleInputs(long, strict=True))  # fmt: skip
    assert not watch.steps


def test_a_tokenizer_fitted_early_is_the_one_that_is_trained(source: Path, tmp_path: Path) -> None:
    """Fitted before the first stage, or, where that was done already, just before the model: the same weights."""
    go(tmp_path / "a", conditioners=[TEXT], stages=MODEL)
    go(tmp_path / "b", conditioners=[TEXT], stages=("first_stage",))
    go(tmp_path / "b", conditioners=[TEXT], stages=("latents", "denoiser"))
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_freezing_random_weights_is_warned_of(source: Path, tmp_path: Path) -> None:
    watch = go(tmp_path / "a", "trainer.steps=1", conditioners=[{**CLASSES, "train": False}], stages=MODEL)
    assert any("'class_label' has train: false and fresh weights" in m for m in watch.messages)
    frozen = {**TEXT, "train": False}
    watch = go(tmp_path / "b", "trainer.steps=1", f"trainer.init_from={source}", conditioners=[frozen],
               first_stage=str(source), stages=MODEL)  # fmt: skip
    assert not any("train: false" in m for m in watch.messages)


def test_a_tokenizers_content_is_in_the_identity_and_its_place_is_not(source: Path, tmp_path: Path) -> None:
    model: Tensor = weights(source)["conditioners.text._extra_state"]
    one, two, other = (tmp_path / f"{n}.model" for n in ("one", "two", "other"))
    for path in (one, two):
        path.write_bytes(model.numpy().tobytes())
    other.write_bytes(model.numpy().tobytes()[:-4])
    identities = []
    for path in (one, two, other):
        identities.append(_identity({**TINY, "conditioners": [{**TEXT, "tokenizer": str(path)}]})[0])
    assert identities[0] == identities[1] != identities[2]
    _, plain = _identity({**TINY, "conditioners": [{**TEXT, "tokenizer": str(one)}]})
    before, _ = _identity(plain)
    one.unlink()  # a trained model holds it: its recipe still reads
    assert _identity(plain)[0] == before
    one.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is not the file that the recipe was made with"):
        _identity(plain)


def test_the_commands_of_the_guide_check(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ldm_core.cli import main

    run, again = str(source), ["check", "--json", "--recipe", str(source / "recipe.yaml")]
    model = [*again, "--first-stage", run, "image_size=32", f"trainer.init_from={run}", "trainer.lr=1e-5"]
    assert main(model) == 0
    plain = json.loads(capsys.readouterr().out)
    assert _header(source).sha256 in json.dumps(plain)
    assert main([*again, f"first_stage_trainer.init_from={run}"]) == 0
    assert main([*again, f"trainer.init_from={run}"]) == 2  # the first stage would be trained anew


def test_adapters_alone_train_on_weights_that_stay(source: Path, tmp_path: Path) -> None:
    """LoRA of the contract plugin: every other tensor of the model's file is the source's, bit for bit."""
    adapted: dict[str, Any] = {"adapters": [{"use": "lora", "rank": 2, "targets": ["to_q", "to_v"]}]}
    alone = (f"trainer.init_from={source}", "trainer.train=adapters", "trainer.steps=4", "trainer.ema=0.0")
    go(tmp_path, *alone, stages=MODEL, conditioners=[TEXT], first_stage=str(source), **adapted)
    base, made = weights(source), weights(tmp_path)
    own = {k for k in made if k.startswith("adapters.")}
    assert own and made.keys() - own == base.keys()
    assert all(torch.equal(made[k], v) for k, v in base.items())
    assert any(made[k].abs().max() > 0 for k in own if ".up." in k)


def test_an_adapters_file_of_somebody_else_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "adapters" / "style.safetensors"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    adapted: dict[str, Any] = {"adapters": {"style": {"use": "lora", "rank": 2, "targets": ["to_q", "to_v"]}}}
    alone = (f"trainer.init_from={source}", "trainer.train=adapters", "trainer.steps=1", "trainer.ema=0.0")
    with pytest.raises(ConfigError, match=r"holds adapters/style\.safetensors, which this run did not write"):
        go(tmp_path, *alone, stages=MODEL, conditioners=[TEXT], first_stage=str(source), **adapted)
    assert theirs.read_bytes() == b"theirs" and not (tmp_path / "model.safetensors").exists()
    theirs.unlink()
    go(tmp_path, *alone, stages=MODEL, conditioners=[TEXT], first_stage=str(source), **adapted)
    for name in ("adapters/style.safetensors", "first_stage.safetensors", "model.safetensors"):
        storage.atomic_write(f"{tmp_path}/other/{name}", (tmp_path / name).read_bytes())
    again = go(tmp_path / "other", *alone, stages=MODEL, conditioners=[TEXT], first_stage=str(source), **adapted)
    assert ("denoiser", "skipped") in again.ends, "the very files of this run may be put there by hand"


def test_adapters_alone_need_adapters_and_weights() -> None:
    plain = {**TINY, "trainer": {**TINY["trainer"], "train": "adapters"}}
    with pytest.raises(ConfigError, match="needs one in the recipe") as caught:
        workflow.prepare(plain, Catalog.discover())
    assert "trainer.init_from=RUN" in str(caught.value)
