"""Training first stages: resume with revived codes, moved codes' optimizer state, measurements on the way, messages."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from first_stage_curves import Trial
from ldm_plugin_adversarial.codebook import COUNTS
from ldm_plugin_adversarial.config import AdversarialConfig
from ldm_plugin_adversarial.objective import AdversarialObjective
from training_runs import VQ, Watch, go, weights

from ldm_core import storage
from ldm_core.builtin.identity.config import IdentityConfig
from ldm_core.builtin.identity.stage import IdentityFirstStage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import Site, StageBatch
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError, Interrupted
from ldm_core.training import workflow
from ldm_core.training.checkpoints.snapshot import part_tensors
from ldm_core.training.engine.world import World
from ldm_core.training.feed.loader import MicroBatch
from ldm_core.training.first_stage import validation
from ldm_core.training.first_stage.metrics import image_scores
from ldm_core.training.first_stage.task import mean_logs
from ldm_core.training.latents.statistics import fit_normalization

FIRST = ("first_stage",)
SECTION = "first_stage_trainer"


def rows(out: Path, stage: str = "first_stage") -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["stage"] == stage]


def test_a_run_stopped_between_revivals_ends_bit_identical(tmp_path: Path) -> None:
    """The counts since the last revival are part of the checkpoint: without them other codes would count as dead."""
    base = [f"{SECTION}.{s}" for s in ("revive_every=3", "codebook_init_images=0", "r1_weight=1", "log_variance=true")]
    go(tmp_path / "a", *base, stages=FIRST, first_stage=VQ)
    with pytest.raises(Interrupted):
        go(tmp_path / "b", *base, stages=FIRST, first_stage=VQ, watch=Watch(stop=("first_stage", 5)))
    (newest,) = (tmp_path / "b" / "checkpoints" / "first_stage").glob("step-00000005-*")
    checkpoint = {k: v for shard in newest.glob("*.safetensors") for k, v in weights(newest, shard.name).items()}
    counts = checkpoint[f"task/{COUNTS}"]
    assert counts.sum() == 2 * 4 * 8 * 8  # two steps of four images of 8 x 8 latents
    assert checkpoint["autoencoder/state/loss.log_variance"].shape == (1,)
    go(tmp_path / "b", *base, stages=FIRST, first_stage=VQ)
    a, b = (weights(tmp_path / n, "first_stage.safetensors") for n in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert "log_variance" not in a
    first, last = rows(tmp_path / "a")[0], rows(tmp_path / "a")[-1]
    assert {"grad_norm_discriminator", "grad_norm", "adaptive_weight", "r1", "real_logit", "fake_accuracy"} <= set(last)
    assert "r1" not in first and last["log_variance"] != 0


@pytest.mark.parametrize("zero", [0, 2])
def test_moved_codes_forget_their_gradients(zero: int) -> None:
    """Only unused codes move, and only their rows of the optimizer's moments are cleared."""
    trial = Trial("vq", ["steps=2", "adversarial=false", "revive_every=1", f"zero={zero}"])
    task = trial.task
    micros = next(iter(trial.loader.steps(0)))
    for part in task.parts:
        part.set_lr(1e-4)
    codebook = trial.objective._codebook
    codebook.start(0)
    images = micros[0].batch["image"]
    part = task.parts[0]
    part.backward(part.engine(StageBatch(images, 0, lambda purpose: Streams([1, 2, 3, 4, 5, 6, 7, 8]))).value)
    part.step()
    name = "loss.first_stage.quantize.embedding.weight"
    before = {k: v.clone() for k, v in part_tensors(part)}
    counts = torch.ones(32, dtype=torch.int64)
    counts[[3, 17]] = 0
    with torch.no_grad():
        codebook.revive(0, [images], [counts])
    after = dict(part_tensors(part))
    moved = (before[f"autoencoder/state/{name}"] != after[f"autoencoder/state/{name}"]).any(1)
    assert moved.nonzero().flatten().tolist() == [3, 17]
    for key in ("exp_avg", "exp_avg_sq"):
        was, now = before[f"autoencoder/{key}/{name}"], after[f"autoencoder/{key}/{name}"]
        assert was[[3, 17]].abs().sum() > 0 and not now[[3, 17]].any()
        assert torch.equal(now[~moved], was[~moved])
    latents = trial.stage.encode_moments(images).movedim(1, -1).flatten(0, -2)
    codes = after[f"autoencoder/state/{name}"][moved]
    assert torch.cdist(codes, latents.detach()).min(1).values.max() < 0.1 * latents.std()


def test_measuring_on_the_way_changes_nothing(tmp_path: Path) -> None:
    watched = [f"{SECTION}.validate_every=2", f"{SECTION}.preview_every=3", f"{SECTION}.validate_images=5"]
    go(tmp_path / "a", stages=FIRST, first_stage=VQ)
    watch = go(tmp_path / "b", *watched, stages=FIRST, first_stage=VQ)
    a, b = (weights(tmp_path / n, "first_stage.safetensors") for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    measured = rows(tmp_path / "b", "first_stage_validation")
    assert [r["step"] for r in measured] == [2, 4, 6]
    assert all({"psnr", "ssim", "fd_random"} <= set(r) for r in measured)
    # the last one and the evaluation at the end see the same weights, the latter through normalised latents
    final = rows(tmp_path / "b", "first_stage_evaluation")[-1]
    assert final["psnr"] == pytest.approx(measured[-1]["psnr"], abs=0.01)
    assert final["fd_random"] == pytest.approx(measured[-1]["fd_random"], rel=0.02)
    assert final["evaluated_images"] == 5 and final["held_out"] == 1
    names = sorted(p.name for p in (tmp_path / "b" / "previews").iterdir())
    assert names == ["reconstructions-00000003.png", "reconstructions-00000006.png"]
    assert (tmp_path / "b" / "reconstructions.png").exists()
    assert any("PSNR" in m and "fd_random" in m and "5 held-out images" in m for m in watch.messages)


def test_measuring_is_cut_off_where_the_run_is_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (f"{SECTION}.validate_every=2", f"{SECTION}.validate_images=32", "dataset.val_scenes=32")
    blocks: list[int] = []

    def scored(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        if not blocks:
            os.kill(os.getpid(), signal.SIGTERM)
        blocks.append(len(x))
        return image_scores(x, y)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "image_scores", scored)
        watch = Watch()
        with pytest.raises(Interrupted, match="step 3 of 6"):
            go(tmp_path, *wanted, stages=FIRST, first_stage=VQ, watch=watch)
    assert blocks == [16], "the block under way ends, the second never begins"
    assert "first_stage: the validation of step 2 was cut off, as the run was asked to stop" in watch.messages
    go(tmp_path, *wanted, stages=FIRST, first_stage=VQ)
    assert [row["step"] for row in rows(tmp_path, "first_stage_validation")] == [4, 6]


def test_a_loss_that_is_not_finite_leaves_both_parts_out() -> None:
    trial = Trial("vq", ["steps=4", "adversarial_start=0", "bad_steps=skip", "accumulate=2"])
    task, said = trial.task, []
    for guard in task.guards.values():
        guard._say = lambda text, level: said.append(text)
    batches = trial.loader.steps(0)
    good = next(batches)
    for part in task.parts:
        part.set_lr(1e-3)
    task.step(0, good, measure=True)
    state = {k: v.clone() for part in task.parts for k, v in part_tensors(part)}
    spoiled = dict(good[1].batch)
    spoiled["image"] = spoiled["image"].clone()
    spoiled["image"][2, 0, 0, 0] = torch.nan
    assert task.step(1, [good[0], MicroBatch(spoiled, good[1].places)], measure=True) == {}
    assert task.part_steps == {"autoencoder": 1, "discriminator": 1}
    assert all(torch.equal(state[k], v) for part in task.parts for k, v in part_tensors(part))
    assert len(said) == 1 and f"Place(epoch=0, index={good[1].places[2].index}," in said[0]
    logs = task.step(2, next(batches), measure=True)
    assert task.part_steps == {"autoencoder": 2, "discriminator": 2} and logs["bad_steps"] == 1


def test_logs_are_means_and_wide_ones_go_to_the_stage() -> None:
    micros = [{"loss": torch.tensor(1.0), "counts": torch.tensor([0, 4])}, {"loss": torch.tensor(2.0),
              "counts": torch.tensor([2, 0])}]  # fmt: skip
    alone = World(0, 1, torch.device("cpu"))
    stage = SimpleNamespace(diagnostics=lambda logs: {"used": (logs["counts"] > 0).sum()})
    found = mean_logs(micros, stage, alone)
    assert {k: float(v) for k, v in found.items()} == {"loss": 1.5, "used": 2.0}
    assert {k: float(v) for k, v in mean_logs(micros, object(), alone).items()} == {"loss": 1.5, "counts": 1.5}


def test_statistics_come_out_the_same_however_they_are_shared_out() -> None:
    """Two processes' parts, put together by hand: the same bits as one process's, and numpy's numbers even where the
    mean is a thousand times the spread."""
    images = torch.randn(70, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 1000.0
    blocks = [(images[i : i + 16], range(i, min(i + 16, 70))) for i in range(0, 70, 16)]

    def fitted(size: int) -> torch.Tensor:
        stage = IdentityFirstStage(IdentityConfig(), Site(size=(4, 4)))
        parts: list[Any] = []
        for rank in range(size):  # what each would hand in

            class Collect(World):
                def gather(self, value: Any) -> list[Any]:
                    parts.append(value)
                    return [*parts, *([[]] * (self.size - len(parts)))]

            mean, std = fit_normalization(stage, blocks[rank::size], Collect(rank, size, torch.device("cpu")))
        return torch.stack([mean, std])

    whole = fitted(1)
    assert torch.equal(fitted(2), whole) and torch.equal(fitted(3), whole)
    pixels = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(whole[1].numpy(), pixels.std(1), rtol=1e-6)


def test_the_discriminators_start_as_a_share() -> None:
    catalog = Catalog.discover()

    def start(**settings: Any) -> int:
        plain = {"first_stage": "vq_f8_n256", SECTION: {"steps": 1000, **settings}, "image_size": 64}
        recipe = workflow.prepare(plain, catalog)[0]
        return int(recipe.stage_objective.config.start(recipe.first_stage.config, 1000))

    assert start() == 250_001  # the stage's own
    assert start(adversarial_start=7) == 7
    assert start(adversarial_start_share=0.25) == 250
    assert start(adversarial_start_share=1.0) == 1000
    with pytest.raises(ConfigError, match=r"t\.adversarial_start_share: adversarial_start is given too; use one"):
        structure({"adversarial_start": 1, "adversarial_start_share": 0.5}, AdversarialConfig, "t")
    with pytest.raises(ConfigError, match=r"t\.adversarial_start_share: expected a share from 0 to 1, got 1.5"):
        structure({"adversarial_start_share": 1.5}, AdversarialConfig, "t")


@pytest.mark.parametrize(("norm", "size", "warned"), [("batch", 2, True), ("batch", 1, False), ("group", 2, False)])
def test_batch_norm_says_that_it_depends_on_the_number_of_processes(norm: str, size: int, warned: bool) -> None:
    said: list[str] = []
    config = AdversarialConfig(discriminator_norm=norm, lpips="x")  # type: ignore[arg-type]
    training: Any = SimpleNamespace(processes=size, say=lambda text, level="info": said.append(text))
    AdversarialObjective(config, Site(size=(32, 32)))._tell(training)
    assert bool(said) is warned and all("depends on the number of processes" in s for s in said)


def test_a_stage_with_nothing_to_train_says_so(tmp_path: Path) -> None:
    watch = go(tmp_path, stages=FIRST)
    assert "first stage: 'identity' has nothing to train" in watch.messages


def test_lpips_weights_count_by_their_content(tmp_path: Path) -> None:
    """The same file elsewhere is the same stage; another content under the same name is not."""
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS
    from safetensors.torch import save_file

    def write(seed: int, path: Path) -> str:
        torch.manual_seed(seed)
        save_file({k: v.contiguous() for k, v in LPIPS().state_dict().items()}, path)
        return f"{SECTION}.lpips={path}"

    base = [f"{SECTION}.adversarial=false", f"{SECTION}.steps=1"]
    here = write(0, tmp_path / "here.safetensors")
    there = f"{SECTION}.lpips={tmp_path / 'there.safetensors'}"
    storage.atomic_write(str(tmp_path / "there.safetensors"), (tmp_path / "here.safetensors").read_bytes())
    first = go(tmp_path / "run", *base, here, stages=FIRST, first_stage=VQ)
    assert any("LPIPS" in m and "PSNR" in m for m in first.messages)  # measured with them, too
    again = go(tmp_path / "run", *base, there, stages=FIRST, first_stage=VQ)
    assert ("first_stage", "skipped") in again.ends
    write(1, tmp_path / "there.safetensors")
    storage.remove(str(tmp_path / "run" / "checkpoints"), recursive=True)
    other = go(tmp_path / "run", *base, there, stages=FIRST, first_stage=VQ)
    assert ("first_stage", "skipped") not in other.ends
