"""``ldm-run sample`` beyond the training size: sizes, pieces of the first stage, windows of the denoiser, guides."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from toy_models import toy

from ldm_core.cli import main
from ldm_core.model.tiles import tiling
from ldm_core.sampling.pipeline import Pipeline

SMALL: dict[str, Any] = {
    "first_stage": {"use": "kl_f4", "channels": 8, "norm_groups": 4},
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
                 "norm_groups": 8},
    "image_size": [16, 32],
}  # fmt: skip
WINDOWS = ["adapters.wide.use=multidiffusion", "adapters.wide.window=[4,8]", "adapters.wide.overlap=2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("models")
    return {word: str(toy(word, place, **SMALL)) for word in ("text", "map", "small", "none")}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    Image.fromarray(np.repeat(np.repeat(random.integers(0, 3, (4, 8), np.uint8), 4, 0), 4, 1)).save("map.png")
    Image.fromarray(random.integers(0, 256, (5, 8, 3), np.uint8)).save("small.png")


def drawn(*words: str, out: str = "made") -> Image.Image:
    assert main(["sample", *words, "--images", "1", "--seed", "3", "--quiet", "--steps", "2", "--out", out]) == 0
    (file,) = Path(out).glob("0*.png")
    return Image.open(io.BytesIO(file.read_bytes()))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=int).transpose(2, 0, 1)


def test_a_panorama_of_a_text_under_guidance(models: dict[str, str]) -> None:
    """By windows or not; from Python it is the same picture."""
    command = [models["text"], "--prompt", "a red circle", "--guidance", "3", "--size", "16x128"]
    plain, wide = drawn(*command, out="plain"), drawn(*command, *WINDOWS, out="wide")
    assert plain.size == wide.size == (128, 16) and (pixels(plain) != pixels(wide)).any()
    assert wide.info["adapters"] == "wide" and wide.info["prompt"] == "a red circle"
    python = Pipeline.load(models["text"]).at_size((16, 128)).with_settings(WINDOWS)
    (same,) = python.sample("a red circle", guidance=3.0, steps=2, seed=3, images=1)
    assert np.abs(same.image.astype(int) - pixels(wide)).max() <= 1


def test_a_size_and_a_scale_of_latents(models: dict[str, str]) -> None:
    plain = drawn(models["none"], "--size", "64x256", out="plain")
    scaled = drawn(models["none"], "--size", "64x256", "sample.latent_scale=0.5", out="scaled")
    assert plain.size == scaled.size == (256, 64) and (pixels(plain) != pixels(scaled)).any()


def test_pieces_of_the_first_stage_make_the_whole(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``sample.tile`` from the command line and from Python; the stage's own pieces leave no seam."""
    whole = drawn(models["none"], "--size", "64x96", "sample.tile=0", out="whole")
    cut: list[bool] = []
    before = tiling.Tiling._cuts

    def noted(*given: Any) -> bool:
        cut.append(before(*given))
        return cut[-1]

    monkeypatch.setattr(tiling.Tiling, "_cuts", noted)
    pieces = drawn(models["none"], "--size", "64x96", "sample.tile=32", "sample.tile_memory=16", out="pieces")
    assert any(cut) and np.abs(pixels(whole) - pixels(pieces)).max() <= 1
    python = Pipeline.load(models["none"]).at_size((64, 96)).with_settings({"sample": {"tile": 32, "tile_memory": 16}})
    (same,) = python.sample(steps=2, seed=3, images=1)
    assert np.abs(same.image.astype(int) - pixels(pieces)).max() <= 1


def test_label_maps_at_four_times_the_area(models: dict[str, str]) -> None:
    """The map is cut along with the latents: by windows, or whole."""
    command = [models["map"], "--segmentation", "map.png", "--size", "32x64"]
    plain, wide = drawn(*command, out="plain"), drawn(*command, *WINDOWS, out="wide")
    assert plain.size == wide.size == (64, 32)
    assert "map of 32x64" in wide.info["segmentation"]


@pytest.mark.slow
def test_a_label_map_of_a_megapixel_within_bounds(models: dict[str, str]) -> None:
    """In a fresh process: windows for the network, pieces for the first stage."""
    words = [models["map"], "--segmentation", "map.png", "--size", "1024x1024", "--images", "1", "--steps", "1"]
    words += ["adapters.wide.use=multidiffusion", "adapters.wide.window=64", "adapters.wide.overlap=8"]
    words += ["adapters.wide.batch=2", "sample.tile=512", "sample.tile_memory=256", "--quiet", "--out", "made"]
    code = (
        "import resource, sys; from ldm_core.cli import main; code = main(['sample', *sys.argv[1:]]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (file,) = Path("made").glob("0*.png")
    assert Image.open(file).size == (1024, 1024)
    assert int(ran.stderr.split()[-1]) < 1 << 20, "1 GiB, of which torch and its like take a quarter"


def test_a_small_picture_guides_a_model_of_super_resolution(models: dict[str, str]) -> None:
    """Post-hoc guiding by the picture of ``--image``, whole and in windows: the result, made small, comes nearer."""
    command = [models["small"], "--image", "small.png"]
    guide = ["guides=[low_resolution_target]", "guides.low_resolution_target.factor=4", "sample.colour_fix=none"]
    guide.append("guides.low_resolution_target.iterations=1")
    plain, guided = drawn(*command, "sample.colour_fix=none", out="plain"), drawn(*command, *guide, out="guided")
    assert plain.size == guided.size == (32, 20) and guided.info["guides"] == "low_resolution_target"
    assert guided.info["whole"].startswith("5x8 enlarged whole, 4 times")
    target = pixels(Image.open("small.png"))
    off = [np.square(pixels(one.reduce(4)) - target).mean() for one in (plain, guided)]
    assert off[1] < off[0]
