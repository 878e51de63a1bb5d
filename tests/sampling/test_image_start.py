"""Sampling from a picture and up to a level above data; the time grid and `project_x0` of a trained model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.data import images as files
from ldm_core.errors import ConfigError, DataError, LDMError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.image_to_image import Passage, Start, pictures
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.run import LatentOptions, conditions_of, sample_latents
from ldm_core.testing.base import randomize
from ldm_core.testing.gaussian import FlowSchedule

CATALOG = Catalog.discover()
SAMPLERS = CATALOG.names("sampler")
PIXELS: dict[str, Any] = {
    "image_size": [16, 24],
    "scale": "small",
    "first_stage": "identity",
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "heads": 2, "attention": [2], "norm_groups": 8},
    "schedule": "vp_sd",
    "parameterization": "v",
    "guidance": "none",
    "sampler": "ddim",
    "sample": {"steps": 10, "images": 2, "batch": 2},
}
CODES = {**PIXELS, "first_stage": {"use": "vq_f4", "channels": 16, "codebook_size": 64}}


def assembled(plain: dict[str, Any], *, moved: bool = True) -> Pipeline:
    """A pipeline of fresh weights; `moved`: the layers that begin at zero as well."""
    recipe = resolve(plain, CATALOG)
    stage: Any = make_first_stage(recipe, CATALOG)
    model = make_model(recipe, CATALOG, stage)
    if moved:
        randomize(model, 3)
    stage.eval().requires_grad_(False)
    return Pipeline(recipe, stage, model.requires_grad_(False), CATALOG)


@pytest.fixture(scope="module")
def pixels() -> Pipeline:
    return assembled(PIXELS)


@pytest.fixture(scope="module")
def codes() -> Pipeline:
    return assembled(CODES)


def picture(seed: int = 0, height: int = 16, width: int = 24) -> np.ndarray:
    """Smooth colours, uint8 (3, H, W)."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(0.3 * (c + 1) * x + 0.2 * y + seed) for c in range(3)]
    return np.asarray(127.5 + 100 * np.stack(waves), dtype=np.uint8)


def stacked(made: Any) -> np.ndarray:
    return np.stack([s.image for s in made]).astype(int)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


# --------------------------------------------------------------------------------------------- the passage


@pytest.mark.parametrize(
    ("strength", "stop", "expected"),
    [
        (1.0, 0.0, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (0.6, 0.0, [6, 5, 4, 3, 2, 1, 0]),
        (0.69, 0.0, [6, 5, 4, 3, 2, 1, 0]),
        (0.1, 0.0, [1, 0]),
        (1.0, 0.2, [10, 9, 8, 7, 6, 5, 4, 3, 2]),
        (0.5, 0.3, [5, 4, 3]),
    ],
)
def test_the_part_of_the_grid(strength: float, stop: float, expected: list[float]) -> None:
    times = torch.arange(10, -1, -1, dtype=torch.float64)
    assert Passage(strength, stop).times(times).tolist() == expected


def test_the_steps_are_those_of_diffusers() -> None:
    pipelines = pytest.importorskip("diffusers")
    scheduler = pipelines.DDIMScheduler(timestep_spacing="trailing")
    for steps in (7, 50):
        scheduler.set_timesteps(steps)
        for strength in (0.15, 0.3, 0.58, 0.75, 0.99, 1.0):
            begin = max(steps - min(int(steps * strength), steps), 0)  # StableDiffusionImg2ImgPipeline.get_timesteps
            theirs = scheduler.timesteps[begin:].tolist()
            grid = CATALOG.get("time_grid", "trailing")[0].component
            times = grid.load()(grid.config(), None).times(resolve_schedule(), steps)
            assert [t - 1 for t in Passage(strength).times(times).tolist()[:-1]] == theirs, (steps, strength)


def resolve_schedule() -> Any:
    schedule = CATALOG.get("schedule", "vp")[0].component
    return schedule.load()(schedule.config(), None)


def test_a_passage_that_leaves_no_step() -> None:
    times = torch.arange(10, -1, -1, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"strength=0\.09: none of 10 steps is left; give 0\.1 or more"):
        Passage(0.09).times(times)
    with pytest.raises(ConfigError, match=r"stop=0\.5: .* none is left"):
        Passage(0.5, 0.5).times(times)


def test_it_begins_from_noised_latents(pixels: Pipeline) -> None:
    """x = alpha z + sigma noise at the level, with the noise that a run without a picture begins from."""
    asked: list[tuple[Tensor, float]] = []
    watched = assembled(PIXELS)
    forward = watched.model.forward

    def spy(x: Tensor, t: Tensor, cond: Any) -> Any:
        asked.append((x.clone(), float(t[0])))
        return forward(x, t, cond)

    watched.model.forward = spy  # type: ignore[method-assign]
    watched.sample(start=Start.image(picture(), strength=0.5), seed=7)
    x, t = asked[0]
    assert t == 500 and len(asked) == 5
    alpha, sigma = (float(f(torch.tensor(t))) for f in (watched.model.schedule.alpha, watched.model.schedule.sigma))
    z = torch.from_numpy(picture()).float()[None] / 127.5 - 1
    noise = Streams([mix_seed("start", 7)]).normal((1, 3, 16, 24))
    torch.testing.assert_close(x, alpha * z + sigma * noise, rtol=0, atol=1e-5)
    asked.clear()
    watched.sample(images=1, seed=7)
    torch.testing.assert_close(asked[0][0], noise, rtol=0, atol=1e-6)
    asked.clear()
    watched.sample(start=Start.image(picture(), strength=1.0), seed=7)
    end = float(watched.model.schedule.alpha(torch.tensor(1000.0)))
    torch.testing.assert_close(asked[0][0] - end * z, math.sqrt(1 - end**2) * noise, rtol=0, atol=1e-5)


def test_full_strength_without_signal_is_the_plain_run() -> None:
    """Where the schedule ends in pure noise nothing is left of the picture."""
    plain = assembled({**PIXELS, "schedule": {"use": "vp", "zero_terminal": True}})
    assert (
        stacked(plain.sample(start=Start.image(picture(), strength=1.0), seed=3))
        == stacked(plain.sample(images=1, seed=3))
    ).all()
    flow = Passage(latents=torch.ones(1, 2, 3))
    noise = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(flow.start(FlowSchedule(), torch.tensor(1.0), noise), noise)


def test_low_strength_keeps_the_picture() -> None:
    """A model that predicts v = 0 leaves alpha² z + alpha sigma noise after a step: the PSNR follows, and falls."""
    still = assembled(PIXELS, moved=False)  # its last layer is zero
    found = []
    for steps, strength in ((1000, 0.001), (100, 0.01), (50, 0.02)):
        chosen = still.with_settings({"time_grid": "trailing"})
        (made,) = chosen.sample(start=Start.image(picture(), strength=strength), steps=steps, seed=1)
        alpha2 = float(still.model.schedule.alpha(torch.tensor(1000.0 / steps))) ** 2
        z = picture().astype(float) / 127.5 - 1
        error = (1 - alpha2) ** 2 * np.mean(z**2) + alpha2 * (1 - alpha2)
        found.append(psnr(made.image, still.reconstruct(picture()[None])[0]))
        assert found[-1] == pytest.approx(10 * math.log10(4 / error), abs=0.6)
    assert found[0] > 35 and found == sorted(found, reverse=True)


def test_codes_are_kept_at_low_strength(codes: Pipeline) -> None:
    """Through a first stage with a codebook: the reconstruction itself, to what one small step changes."""
    (made,) = codes.sample(start=Start.image(picture(), strength=0.001), steps=1000)
    rebuilt = codes.reconstruct(picture()[None])[0]
    far = codes.sample(start=Start.image(picture(), strength=1.0))[0]
    assert psnr(made.image, rebuilt) > psnr(far.image, rebuilt) + 5


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
def test_a_run_goes_on_where_another_stopped(sampler: str, codes: Pipeline) -> None:
    """Samplers without memory: a run in two parts is the whole run; the latents of the first are x at its level."""
    chosen = codes.with_settings({"sampler": sampler})
    whole = chosen.sample(images=2, seed=5)
    base = chosen.sample(images=2, seed=5, start=Start.noise(stop=0.4))
    assert all(s.latents is not None and s.latents.shape == (3, 4, 6) for s in base)
    rest = chosen.sample(start=Start.latents([s.latents for s in base], strength=0.4), seed=5)
    assert len(rest) == 2 and np.abs(stacked(rest) - stacked(whole)).max() <= 1
    last = np.stack([s.latents for s in rest if s.latents is not None])
    torch.testing.assert_close(
        torch.from_numpy(last),
        torch.from_numpy(np.stack([s.latents for s in whole if s.latents is not None])),
        rtol=0,
        atol=1e-4,
    )
    assert (stacked(base) != stacked(whole)).any()


def test_a_stopped_run_shows_the_estimate(pixels: Pipeline) -> None:
    told: list[Any] = []
    (made,) = pixels.sample(images=1, seed=2, start=Start.noise(stop=0.5), callback=told.append)
    assert [p.step for p in told] == [1, 2, 3, 4, 5] and told[0].steps == 5
    conditions = conditions_of(pixels.model, {})
    seen: list[Tensor] = []
    z = sample_latents(
        pixels.model,
        pixels._parts(pixels.recipe),
        conditions,
        (3, 16, 24),
        [2],
        10,
        LatentOptions(on_step=lambda i, t, x, x0: seen.append(x0), passage=Passage(stop=0.5)),
    )
    shown = ((seen[-1].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()[0]
    assert (made.image == shown).all() and len(seen) == 5
    assert made.latents is not None and np.abs(made.latents - z.numpy()[0]).max() <= 1e-5
    assert float(z.std()) > 0.5, "half of the noise is still there"


# ------------------------------------------------------------------------------------------------ pictures


def test_pictures_are_gone_through_in_turn(pixels: Pipeline) -> None:
    two = [picture(0), picture(1)]
    assert len(pixels.sample(start=Start.image(two, strength=0.1))) == 2
    made = pixels.sample(start=Start.image(two, strength=0.1), images=3, seed=4)
    for i, one in enumerate([two[0], two[1], two[0]]):
        alone = pixels.sample(start=Start.image(one, strength=0.1), seed=[4 + i])
        assert np.abs(stacked(alone)[0] - made[i].image.astype(int)).max() <= 1
    whole = np.stack(two)
    assert (stacked(pixels.sample(start=Start.image(whole, strength=0.1), seed=4)) == stacked(made[:2])).all()


def test_pictures_of_other_sizes_are_fitted_as_data_is(pixels: Pipeline) -> None:
    wide = picture(0, 32, 96)
    (fitted,) = pictures(wide, pixels.recipe)
    assert fitted.shape == (3, 16, 24)
    (middle,) = pictures(wide[:, :, 24:72], pixels.recipe)
    inner = np.abs(fitted.astype(int) - middle)[:, :, 2:-2]  # at its edges the cut has no neighbours to smooth with
    assert inner.max() <= 3, "the middle is cut"
    padded = resolve({**PIXELS, "data": {"fit": "pad"}}, CATALOG)
    (whole,) = pictures(wide, padded)
    assert whole.shape == (3, 16, 24) and (whole[:, 0] == 255).all() and (whole[:, 8] != 255).any()


def test_pictures_of_other_kinds(pixels: Pipeline) -> None:
    plain = picture()
    as_picture = files.to_picture(plain)
    assert (pictures(as_picture, pixels.recipe)[0] == plain).all()
    clear = Image.new("RGBA", (24, 16), (0, 0, 0, 0))
    assert (pictures(clear, pixels.recipe)[0] == 255).all(), "transparent is white"
    assert (pictures(plain[:1], pixels.recipe)[0] == np.repeat(plain[:1], 3, 0)).all()
    grey = resolve({**PIXELS, "image_channels": 1}, CATALOG)
    assert pictures([plain, as_picture], grey)[1].shape == (1, 16, 24)


def test_metadata_say_where_it_began(pixels: Pipeline) -> None:
    chosen = pixels.with_settings({"time_grid": "karras"})
    (made,) = chosen.sample(start=Start.image(picture(), strength=0.5, stop=0.2))
    assert (made.metadata["strength"], made.metadata["stop"]) == ("0.5", "0.2")
    assert made.metadata["time_grid"] == "karras"
    assert not {"strength", "stop"} & set(pixels.sample(images=1)[0].metadata)


@pytest.mark.parametrize(
    ("kind", "given", "shares", "error", "message"),
    [
        ("image", picture(), {"strength": 0.0}, ConfigError, "strength=0: expected a share of the steps, above 0"),
        ("image", picture(), {"strength": 1.2}, ConfigError, "strength=1.2: expected a share"),
        ("image", picture(), {"strength": "0.5"}, ConfigError, "strength='0.5': expected a share"),
        ("image", picture(), {"strength": True}, ConfigError, "strength=True: expected a share"),
        ("image", picture(), {"strength": float("nan")}, ConfigError, "strength=nan: expected a share"),
        ("image", picture(), {"strength": 0.05}, ConfigError, "none of 10 steps is left; give 0.1 or more"),
        ("noise", None, {"stop": 1.0}, ConfigError, "stop=1: expected a share of the steps, from 0 to below 1"),
        ("noise", None, {"stop": -0.1}, ConfigError, "stop=-0.1: expected a share"),
        ("noise", None, {"stop": -math.inf}, ConfigError, "stop=-inf: expected a share"),
        ("image", picture(), {"strength": 0.3, "stop": 0.3}, ConfigError, "none is left"),
        ("image", [], {}, ConfigError, "image: an empty list"),
        ("latents", np.zeros((3, 4, 6), np.float32), {"strength": 0.5}, ConfigError, r"shape (3, 16, 24) for each"),
        ("latents", np.zeros((3, 16, 24), np.int64), {"strength": 0.5}, ConfigError, "expected floating values"),
        ("image", picture().astype(float), {}, DataError, "image: expected a PIL image or uint8 values"),
        ("image", [picture(), picture()[0]], {}, DataError, "image 1: expected a PIL image or uint8"),
        ("image", "a.png", {}, DataError, "image: expected a PIL image"),
    ],
)
def test_errors(
    kind: str, given: Any, shares: dict[str, Any], error: type[Exception], message: str, pixels: Pipeline
) -> None:
    with pytest.raises(error) as caught:
        make = getattr(Start, kind)
        pixels.sample(start=make(**shares) if given is None else make(given, **shares))
    assert message in str(caught.value)


def test_steps_that_a_grid_cannot_make(pixels: Pipeline) -> None:
    with pytest.raises(LDMError, match="no time_grid named 'karas'; did you mean 'karras'"):
        pixels.with_settings({"time_grid": "karas"})
    with pytest.raises(ConfigError, match="the nearest it can is"):
        pixels.with_settings({"time_grid": "legacy"}).sample(steps=7)


# ----------------------------------------------------------------------- project_x0 and grids, by any sampler


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "repaint"])  # which fits to known pixels
def test_estimates_are_codes_on_request(sampler: str, codes: Pipeline) -> None:
    project: Any = codes.stage.project
    if sampler == "lcm":
        codes = codes.with_settings({"sampler": {"use": "lcm", "any_model": True}})
    quantised = codes.with_settings(["sample.project_x0=true", f"sampler={sampler}"])
    conditions = conditions_of(codes.model, {})

    def estimates(asked: Pipeline) -> list[Tensor]:
        seen: list[Tensor] = []
        sample_latents(
            asked.model,
            asked._parts(asked.recipe),
            conditions,
            (3, 4, 6),
            [1, 2],
            4,
            LatentOptions(
                project if asked.recipe.sample.project_x0 else None,
                on_step=lambda i, t, x, x0: seen.append(x0),
            ),
        )
        return seen

    for x0 in estimates(quantised):
        torch.testing.assert_close(x0, project(x0), rtol=0, atol=1e-6)
    free = estimates(codes.with_settings([f"sampler={sampler}"]))
    assert max(float((x0 - project(x0)).abs().max()) for x0 in free) > 1e-3
    made = quantised.sample(steps=4, seed=1)
    same = codes.with_settings({"sampler": sampler, "sample": {"project_x0": True}}).sample(steps=4, seed=1)
    assert (stacked(made) == stacked(same)).all()
    if sampler != "plms":  # whose last step is not the last estimate but a mean
        ends = torch.from_numpy(np.stack([s.latents for s in made if s.latents is not None]))
        torch.testing.assert_close(ends, project(ends), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", CATALOG.names("time_grid"))
@pytest.mark.parametrize("sampler", ["ddim", "plms", "unipc", "dpm_solver_pp_2m_sde"])
def test_every_grid_serves_every_sampler(grid: str, sampler: str, pixels: Pipeline) -> None:
    steps = 10
    made = pixels.with_settings({"sampler": sampler, "time_grid": grid}).sample(images=1, steps=steps)
    assert made[0].metadata["time_grid"] == grid and made[0].image.shape == (3, 16, 24)


# ------------------------------------------------------------------------------------- the command line


def test_command_line(
    pixels: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Pipeline, "load", lambda url, **options: pixels)
    monkeypatch.chdir(tmp_path)
    for i in (0, 1):
        Path(f"in-{i}.png").write_bytes(files.png_bytes(picture(i, 20, 40)))
    line = [
        "sample",
        "run",
        "--image",
        "in-*.png",
        "--strength",
        "0.5",
        "--time-grid",
        "karras",
        "--json",
        "--seed",
        "3",
    ]
    assert main([*line, "--sampler", "heun", "--steps", "8"]) == 0
    made = json.loads(capsys.readouterr().out)["images"]
    assert [m["seed"] for m in made] == [3, 4]
    both = [picture(0, 20, 40), picture(1, 20, 40)]
    chosen = pixels.with_settings({"sampler": "heun", "time_grid": "karras"})
    expected = chosen.sample(start=Start.image(both, strength=0.5), steps=8, seed=3)
    for m, s in zip(made, expected, strict=True):
        data = Path(m["path"]).read_bytes()
        assert (files.decode_image(data) == s.image).all()
        about = files.png_metadata(data)
        assert (about["strength"], about["time_grid"], about["sampler"]) == ("0.5", "karras", "heun")
    assert main(["sample", "run", "--strength", "0.5"]) == 2
    assert "--image" in capsys.readouterr().err
    assert main(["sample", "run", "--image", "in-0.png", "--strength", "1.5"]) == 2
