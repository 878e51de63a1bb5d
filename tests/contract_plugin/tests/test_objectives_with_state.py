"""Objectives that read the bundles undropped and keep a state of their own: trained, killed, gone on with, sampled."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from forked import Command, Process
from ldm_contract_plugin.optional.own_teacher import OwnTeacher
from ldm_contract_plugin.optional.representation import Alignment
from one_thread import each_test as _one_thread  # noqa: F401
from safetensors.torch import load_file
from together import together
from training_runs import TINY, Watch, go, under_zero, weights

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts import LossContext
from ldm_core.errors import ConfigError, ContractError
from ldm_core.recipe.check import check
from ldm_core.recipe.resolve import resolve

TRAINER = {**TINY["trainer"], "steps": 6, "checkpoint_every": 2, "validate_images": 4}
TAUGHT: dict[str, Any] = {
    "conditioners": [{"use": "class_label", "width": 8, "dropout": 0.3}],
    "objective": {"use": "own_teacher", "decay": 0.5},
    "trainer": TRAINER,
}
CLASSES = [{"use": "class_label", "width": 8, "classes": 9}, "representation"]
ALIGNED: dict[str, Any] = {
    "conditioners": [{"use": "class_label", "width": 8, "dropout": 0.3}, "representation"],
    "objective": "alignment",
    "trainer": TRAINER,
}
TRAINED = ("first_stage", "latents", "denoiser")


def checkpoint(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a run's newest checkpoint."""
    newest = max((out / "checkpoints" / "denoiser").iterdir(), key=lambda folder: folder.name)
    return {k: v for file in newest.glob("*.safetensors") for k, v in load_file(file).items()}


def test_a_teacher_is_handed_the_bundles_undropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[LossContext] = []
    drops: list[bool] = []
    plain = OwnTeacher.loss

    def loss(self: Any, model: Any, x0: Any, cond: Any, *, streams: Any, context: LossContext | None = None) -> Any:
        assert context is not None
        seen.append(context)
        full, null = context.conditions.cond.crossattn, context.conditions.null.crossattn
        assert full is not None and null is not None
        drops.extend(bool(torch.equal(a, b)) and not torch.equal(a, c)
                     for a, b, c in zip(cond.crossattn, null, full, strict=True))  # fmt: skip
        assert torch.equal(model.encode(context.batch)["class_label"].crossattn, full)
        return plain(self, model, x0, cond, streams=streams, context=context)

    monkeypatch.setattr(OwnTeacher, "loss", loss)
    go(tmp_path / "run", stages=TRAINED, **TAUGHT)
    assert [c.step for c in seen] == list(range(6)) and {c.steps for c in seen} == {6}
    assert any(drops) and not all(drops), "cond is dropped in part, and the context's bundles are not"
    assert "moments" in seen[0].batch and "class_label" in seen[0].batch


def test_the_teacher_follows_the_student_and_stays_out_of_the_model(tmp_path: Path) -> None:
    watch = go(tmp_path / "run", stages=TRAINED, **TAUGHT)
    assert np.isfinite(watch.losses["denoiser"]).all()
    kept = checkpoint(tmp_path / "run")
    assert int(kept["model/state/objective.steps"]) == 6
    student = {k.removeprefix("model/state/model.denoiser."): v for k, v in kept.items()
               if k.startswith("model/state/model.denoiser.")}  # fmt: skip
    teacher = {k.removeprefix("model/state/objective.teacher."): v for k, v in kept.items()
               if k.startswith("model/state/objective.teacher.")}  # fmt: skip
    assert student.keys() == teacher.keys()
    moved = [k for k in student if not torch.equal(student[k], teacher[k])]
    assert "out.2.weight" in moved, "the teacher is the student itself"
    assert not [k for k in kept if "exp_avg" in k and "teacher" in k], "an optimizer has the teacher"
    assert not [k for k in kept if k.startswith("ema/objective.teacher")], "an average has the teacher"
    assert not [k for k in weights(tmp_path / "run") if "teacher" in k or "objective" in k]


def test_the_teacher_is_sampled_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = {**TAUGHT["objective"], "samples": True}
    go(tmp_path / "run", **{**TAUGHT, "objective": objective})
    kept, made = checkpoint(tmp_path / "run"), weights(tmp_path / "run")
    teacher = {k.removeprefix("model/state/objective.teacher."): v for k, v in kept.items()
               if k.startswith("model/state/objective.teacher.")}  # fmt: skip
    assert teacher and all(torch.equal(made[f"denoiser.{k}"], v) for k, v in teacher.items())
    pipeline = ldm_core.load(str(tmp_path / "run"), device="cpu")
    wanted = [{"class_label": 1}, {"class_label": 2}]
    alone = pipeline.sample(inputs=wanted, seed=4, steps=2)
    for pictures in together([lambda: pipeline.sample(inputs=wanted, seed=4, steps=2)] * 2):
        assert all(np.array_equal(x.image, y.image) for x, y in zip(alone, pictures, strict=True))
    monkeypatch.setattr(OwnTeacher, "sampled", lambda self: {"denoiser.strange": torch.zeros(1)})
    with pytest.raises(ContractError, match=r"objective 'own_teacher'.*sampled gave 'denoiser.strange'"):
        go(tmp_path / "wrong", stages=TRAINED, **TAUGHT)


@pytest.mark.parametrize("stages", [(3,), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_the_teacher_follows_under_every_zero_stage(tmp_path: Path, stages: tuple[int, ...]) -> None:
    """ZeRO 3 divides the teacher's weights too: they are whole where it follows, and stay as it writes them."""
    found = {}
    for stage in (0, *stages):
        out = tmp_path / str(stage)
        go(out, *under_zero(stage), "trainer.steps=3", stages=TRAINED, **TAUGHT)
        found[stage] = {k: v for k, v in checkpoint(out).items() if k.startswith("model/state/objective.")}
    plain = found.pop(0)
    assert len(plain) > 10
    for stage, divided in found.items():
        assert plain.keys() == divided.keys(), stage
        for key, value in plain.items():
            assert torch.allclose(divided[key], value, rtol=1e-4, atol=1e-5), (stage, key)


def test_a_step_that_is_left_out_does_not_move_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OwnTeacher.loss
    followed: list[int] = []

    def loss(self: Any, *given: Any, context: LossContext | None = None, **more: Any) -> Any:
        out = plain(self, *given, context=context, **more)
        assert context is not None
        return out._replace(value=out.value * float("nan")) if context.step == 2 else out

    monkeypatch.setattr(OwnTeacher, "loss", loss)
    after = OwnTeacher.after_step

    def after_step(self: Any, model: Any, step: int) -> None:
        followed.append(step)
        after(self, model, step)

    monkeypatch.setattr(OwnTeacher, "after_step", after_step)
    go(tmp_path / "run", "trainer.bad_steps=skip", stages=TRAINED, **TAUGHT)
    assert followed == [0, 1, 3, 4, 5]
    assert int(checkpoint(tmp_path / "run")["model/state/objective.steps"]) == 5


@pytest.mark.parametrize("recipe", [TAUGHT, ALIGNED], ids=["teacher", "alignment"])
def test_interrupted_and_gone_on_with_bit_for_bit(tmp_path: Path, recipe: dict[str, Any]) -> None:
    from ldm_core.errors import Interrupted

    go(tmp_path / "whole", stages=TRAINED, **recipe)
    with pytest.raises(Interrupted):
        go(tmp_path / "run", stages=TRAINED, watch=Watch(("denoiser", 3)), **recipe)
    go(tmp_path / "run", stages=TRAINED, **recipe)
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "run")
    assert whole.keys() == parts.keys()
    assert not [k for k in whole if not torch.equal(whole[k], parts[k])]
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(a[k], b[k]) for k in a)


def _write(path: Path, changes: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


@pytest.mark.slow
def test_killed_and_gone_on_with_by_the_command_line(tmp_path: Path) -> None:
    """A run of the command line that is killed between two checkpoints ends with the bits of one left in peace."""
    recipe = _write(tmp_path / "recipe.yaml", {**TAUGHT, "trainer": {**TRAINER, "steps": 20}})
    assert main(["--recipe", str(recipe), "--out", str(tmp_path / "whole")]) == 0
    process = Process(Command(["ldm_core.cli", "--recipe", str(recipe), "--out", str(tmp_path / "run")]))
    folder, begun = tmp_path / "run" / "checkpoints" / "denoiser", time.monotonic()
    while not (folder.is_dir() and len(list(folder.iterdir())) >= 2) and time.monotonic() - begun < 240:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    assert process.end().code == -signal.SIGKILL
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert main(["--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("step") == 20 for row in rows)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(a[k], b[k]) for k in a)
    first, second = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "run")
    assert all(torch.equal(first[k], second[k]) for k in first if "objective" in k)


def test_a_projection_trains_beside_cached_latents(tmp_path: Path) -> None:
    """The representation reads the clean picture beside the cached moments; the projection has moments of its own."""
    recipe = _write(tmp_path / "recipe.yaml", ALIGNED)
    assert main(["--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    apart = [row["loss_alignment"] for row in rows if row.get("stage") == "denoiser"]
    assert len(apart) == 6 and np.isfinite(apart).all()
    kept = checkpoint(tmp_path / "run")
    assert bool(kept["model/exp_avg/objective.project.weight"].any()), "no gradient reached the projection"
    pipeline = ldm_core.load(str(tmp_path / "run"), device="cpu")
    pictures = [np.full((3, 16, 16), level, dtype=np.uint8) for level in (0, 200)]
    made = [pipeline.sample(inputs={"class_label": 1, "image": p}, images=1, seed=2, steps=2)[0] for p in pictures]
    assert np.array_equal(made[0].image, made[1].image), "the representation is for the objective alone"
    first = Catalog.discover()
    trained = kept["model/state/objective.project.weight"]
    assert not [k for k in weights(tmp_path / "run") if "project" in k]
    from ldm_core.model.build import make_first_stage, make_objective, sampling_site

    resolved = resolve({**TINY, **ALIGNED}, first)
    fresh = [make_objective(resolved, first, sampling_site(resolved, make_first_stage(resolved, first))) for _ in "ab"]
    assert isinstance(fresh[0], Alignment)
    assert torch.equal(fresh[0].project.weight, fresh[1].project.weight), "first weights depend on the seed alone"  # type: ignore[attr-defined]
    assert not torch.equal(fresh[0].project.weight, trained), "the projection did not train"


def test_an_extra_of_the_objective_is_counted() -> None:
    catalog = Catalog.discover()
    check(resolve({**TINY, **ALIGNED, "conditioners": CLASSES}, catalog))
    with pytest.raises(ConfigError) as caught:
        check(resolve({**TINY, "conditioners": CLASSES}, catalog))
    text = str(caught.value)
    assert "writes the extra 'representation' and no denoiser, guidance, adapter or objective" in text
    with pytest.raises(ConfigError, match="objective 'alignment': width 12: no conditioner writes"):
        check(resolve({**TINY, **ALIGNED, "conditioners": []}, catalog))
