"""What samples, first stages, schedules and parameterizations are held to in a run, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from assembled import BASE, CATALOG, STAGES, assembled
from one_thread import each_module as _one_thread  # noqa: F401
from test_run_contracts import MEAN, NAN, patched, told_as
from torch import Tensor

from ldm_core.contracts import Estimate
from ldm_core.errors import ContractError, NotFiniteError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.conformance.breaches import named
from ldm_core.model.conformance.first_batch import hold_parameterization, hold_schedule, hold_times
from ldm_core.model.conformance.first_stage import hold_stage
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.image_to_image import Start

# -------------------------------------------------------------------------------------------------- samplers and grids


SAMPLING: dict[str, tuple[str, str, Callable[[Any], Any], tuple[str, ...]]] = {
    "grid of another length": ("time_grid", "times", lambda t: t[:-1], ("made float64 (2,) for 2 steps",)),
    "grid that stands still": (
        "time_grid", "times", lambda t: torch.cat([t[:1], t[:1], t[2:]]), ("and then", "strictly decreasing"),
    ),
    "grid upside down": ("time_grid", "times", lambda t: t.flip(0), ("strictly decreasing",)),
    "grid beyond the end": ("time_grid", "times", lambda t: t + 5, ("made times from",)),
    "grid below zero": ("time_grid", "times", lambda t: t - 5, ("made times from",)),
    "grid of NaN": ("time_grid", "times", lambda t: t * NAN, ("made nan",)),
    "grid of half the digits": ("time_grid", "times", lambda t: t.float(), ("made float32 (3,)",)),
    "grid as a list": ("time_grid", "times", lambda t: t.tolist(), ("made list",)),
    "sampler of another shape": ("sampler", "sample", lambda x: x[:, :1], ("returned float32 (2, 1, 16, 16)",)),
    "sampler of another type": ("sampler", "sample", lambda x: x.double(), ("returned float64 (2, 3, 16, 16)",)),
    "sampler of nothing": ("sampler", "sample", lambda x: None, ("returned NoneType",)),
    "sampler of a pair": ("sampler", "sample", lambda x: (x, x), ("returned tuple",)),
    "guidance of a tensor": ("guidance", "guide", lambda e: e.x0, ("returned Tensor", "an Estimate whose x0")),
    "guidance of nothing": ("guidance", "guide", lambda e: None, ("returned NoneType",)),
    "guidance of one row": ("guidance", "guide", lambda e: Estimate(e.x0[:1]), ("made x0 float32 (1, 3, 16, 16)",)),
    "guidance of the branches": (
        "guidance", "guide", lambda e: Estimate(torch.cat([e.x0, e.x0])), ("made x0 float32 (4, 3, 16, 16)",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", SAMPLING)
def test_what_samples_is_held_to_its_contract(fault: str) -> None:
    kind, method, change, said = SAMPLING[fault]
    pipeline = assembled()
    patched(pipeline, kind, method, change)
    with pytest.raises(ContractError) as told:
        pipeline.sample(inputs=[MEAN, MEAN])
    told_as(told.value, *said, kind.replace("_", " "))


def test_every_grid_and_schedule_at_hand_passes() -> None:
    for name in CATALOG.names("schedule"):
        recipe = resolve({**BASE, "first_stage": "identity", "schedule": name}, CATALOG)
        stage: Any = make_first_stage(recipe, CATALOG)
        model = make_model(recipe, CATALOG, stage)  # which holds schedule and parameterization to their contracts
        for grid in ("linspace", "trailing"):
            part = assembled(time_grid=grid)._parts(resolve({**BASE, "first_stage": "identity"}, CATALOG))
            hold_times(part.named["time_grid"], part.time_grid.times(model.schedule, 4), 4, model.schedule)


# ------------------------------------------------------------------------------------------------------- first stages

PICTURES: dict[str, tuple[str, Callable[[Tensor], Any], tuple[str, ...]]] = {
    "moments of another grid": ("encode_moments", lambda m: m[..., :2], ("moments (2, M, 4, 4)", "stride")),
    "moments without rows": ("encode_moments", lambda m: m.mean(0), ("made float32",)),
    "moments as a pair": ("encode_moments", lambda m: m.chunk(2, 1), ("made tuple",)),
    "latents of other channels": ("latents", lambda z: torch.cat([z, z], 1), ("3 channels",)),
    "latents in double precision": ("latents", lambda z: z.double(), ("made float64",)),
    "latents elsewhere": ("latents", lambda z: z.to("meta"), ("put its result on meta",)),
    "projected to another shape": ("project", lambda z: z[:, :1], ("project made",)),
    "pictures of another size": ("decode", lambda x: x[..., :8], ("pictures (2, 3, 16, 16)",)),
    "pictures of other channels": ("decode", lambda x: x[:, :1], ("pictures (2, 3, 16, 16)",)),
    "pictures as a list": ("decode", list, ("made list",)),
}


@pytest.mark.parametrize("fault", PICTURES)
@pytest.mark.parametrize("kind", ["KL", "VQ"])
def test_a_first_stage_is_held_before_it_is_trained(fault: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, change, said = PICTURES[fault]
    recipe = resolve({**BASE, "first_stage": STAGES[kind]}, CATALOG)
    stage: Any = make_first_stage(recipe, CATALOG)
    part, cpu = named(recipe.first_stage, CATALOG), torch.device("cpu")
    before = torch.get_rng_state()
    hold_stage(part, stage, (16, 16), 3, cpu)
    assert torch.equal(before, torch.get_rng_state()) and stage.training
    true = getattr(stage, method)
    monkeypatch.setattr(stage, method, lambda *args, **more: change(true(*args, **more)))
    with pytest.raises(ContractError) as told:
        hold_stage(part, stage, (16, 16), 3, cpu)
    told_as(told.value, *said, f"first stage '{recipe.first_stage.use}'")


PASSES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a tuple": (tuple, "reconstruct made a tuple of images float32 (2, 3, 16, 16)"),
    "an image alone": (lambda made: made.image, "reconstruct made a Tensor of images"),
    "a smaller image": (lambda made: made._replace(image=made.image[..., :8]), "made float32 (2, 3, 16, 8) of images"),
}


@pytest.mark.parametrize("fault", PASSES)
@pytest.mark.parametrize("kind", ["KL", "VQ"])
def test_a_training_pass_is_held_before_the_training(fault: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, said = PASSES[fault]
    recipe = resolve({**BASE, "first_stage": STAGES[kind]}, CATALOG)
    stage: Any = make_first_stage(recipe, CATALOG)
    part, cpu, true = named(recipe.first_stage, CATALOG), torch.device("cpu"), stage.reconstruct
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in stage.state_dict().items()}
    hold_stage(part, stage, (16, 16), 3, cpu, trains=True)
    assert torch.equal(before, torch.get_rng_state()) and stage.training
    assert all(torch.equal(v, state[k]) for k, v in stage.state_dict().items())
    monkeypatch.setattr(stage, "reconstruct", lambda *args, **more: change(true(*args, **more)))
    hold_stage(part, stage, (16, 16), 3, cpu)  # a stage that is only used is not asked for one
    with pytest.raises(ContractError) as told:
        hold_stage(part, stage, (16, 16), 3, cpu, trains=True)
    told_as(told.value, said, f"first stage '{recipe.first_stage.use}'", "a ldm_core.contracts.Reconstruction")


@pytest.mark.parametrize("kind", ["KL", "VQ"])
def test_a_first_stage_that_makes_nan_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resolve({**BASE, "first_stage": STAGES[kind]}, CATALOG)
    stage: Any = make_first_stage(recipe, CATALOG)
    stage.latent_std.zero_()
    part = named(recipe.first_stage, CATALOG)
    with pytest.raises(NotFiniteError, match="latents makes latents of which no row is finite"):
        hold_stage(part, stage, (16, 16), 3, torch.device("cpu"))
    stage.latent_std.fill_(1.0)
    with torch.no_grad():
        next(p for name, p in stage.named_parameters() if name.startswith("decoder.")).view(-1)[0] = NAN
    with pytest.raises(NotFiniteError, match="decode makes pictures of which no row is finite"):
        hold_stage(part, stage, (16, 16), 3, torch.device("cpu"))


@pytest.mark.parametrize("change", [lambda x: x[..., :8], lambda x: x[:, :1], lambda x: torch.cat([x, x])])
def test_a_decoder_is_held_in_sampling(change: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = assembled("KL")
    true = pipeline.stage.decode
    monkeypatch.setattr(pipeline.stage, "decode", lambda z: change(true(z)))
    with pytest.raises(ContractError) as told:
        pipeline.sample(inputs=[MEAN, MEAN])
    told_as(told.value, "pictures (2, 3, 16, 16)", "Normalised latents (B, C, *s) -> images")


def test_an_encoder_is_held_where_a_picture_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = assembled("KL")
    true = pipeline.stage.latents
    monkeypatch.setattr(pipeline.stage, "latents", lambda m, **more: true(m, **more)[:, :1])
    with pytest.raises(ContractError) as told:
        pipeline.sample(inputs=MEAN, start=Start.image(np.zeros((3, 16, 16), np.uint8)))
    told_as(told.value, "of pictures to begin from")


# ------------------------------------------------------------------------------------ schedules and parameterizations


class _Path:
    """A right path from data to noise, changed in one place."""

    t_max: Any = 1.0

    def __init__(self, **changes: Any) -> None:
        vars(self).update(changes)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        return t.double()

    def noise_level(self, t: Tensor) -> Tensor:
        return 1000 * t.float()

    def draw(self, u: Tensor) -> Tensor:
        return 1 - u.double()


PATHS: dict[str, tuple[dict[str, Any], str]] = {
    "half the digits": ({"alpha": lambda t: 1 - t.float()}, "alpha made float32"),
    "no data at 0": ({"alpha": lambda t: 0.9 - 0.5 * t.double()}, "alpha is 0.9 at t = 0"),
    "noise at 0": ({"sigma": lambda t: 0.1 + t.double()}, "sigma is 0.1 at t = 0"),
    "less noise later": ({"sigma": lambda t: t.double() * (1 - t.double())}, "does not increase"),
    "NaN": ({"sigma": lambda t: (t.double() - 0.5).sqrt()}, "not finite"),
    "one number": ({"alpha": lambda t: 1 - t.double().max()}, "alpha made float64 ()"),
    "times beyond the end": ({"draw": lambda u: 1 + u}, "draw made times from"),
    "time 0 drawn": ({"draw": lambda u: u}, "times in (0, 1]"),
    "no end": ({"t_max": 0.0}, "t_max is"),
    "an end of text": ({"t_max": "1"}, "t_max is"),
    "levels of one number": ({"noise_level": lambda t: 3.0}, "noise_level made float"),
}


@pytest.mark.parametrize("fault", PATHS)
def test_a_schedule_is_held_when_a_model_is_made(fault: str) -> None:
    changes, said = PATHS[fault]
    part = attrs.evolve(named(resolve(BASE | {"first_stage": "identity"}, CATALOG).schedule, CATALOG), name="bent")
    hold_schedule(part, _Path())
    with pytest.raises(ContractError) as told:
        hold_schedule(part, _Path(**changes))
    told_as(told.value, said, "schedule 'bent'")


@pytest.mark.parametrize(
    ("coefficients", "said"),
    [
        (lambda a, s: (a, s), "returned tuple"),
        (lambda a, s: a, "returned Tensor"),
        (lambda a, s: (a, s, 1.0), "c_in float"),
        (lambda a, s: (a, s / 0, a), "c_out that is not finite"),
        (lambda a, s: (a.sum(), s, a), "c_skip float64 ()"),
    ],
)
def test_a_parameterization_is_held_when_a_model_is_made(coefficients: Any, said: str) -> None:
    part = named(resolve(BASE | {"first_stage": "identity"}, CATALOG).parameterization, CATALOG)
    with pytest.raises(ContractError) as told:
        hold_parameterization(part, type("P", (), {"coefficients": staticmethod(coefficients)})(), _Path())  # type: ignore[arg-type]
    text = str(told.value)
    assert "three" not in text
    told_as(
        told.value, "parameterization 'v'", said if said != "returned tuple" else "a tuple of c_skip, c_out and c_in"
    )
