"""A transformer that declares spans: trained, then sampled with caches from the command line, Python and threads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from class_model import recipe
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from together import together

import ldm_core
from ldm_core.cli import main
from ldm_core.contracts import evaluation
from ldm_core.sampling.pipeline import Pipeline

CACHES: dict[str, dict[str, Any]] = {
    "toy": {"use": "feature_cache", "interval": 3, "branch": 1},
    "by steps": {"use": "deep_cache", "interval": 3},
    "by steps, inner blocks": {"use": "deep_cache", "interval": 3, "branch": 1},
    "by change": {"use": "first_block_cache", "threshold": 1e9},
}
RAN = {"toy": [0, 3], "by steps": [0, 3], "by steps, inner blocks": [0, 3], "by change": [0]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    values = {
        **recipe(attention=[], steps=4, lr=0.02),
        "denoiser": {"use": "tiny_dit", "width": 16, "depth": 3, "heads": 2, "patch": 4, "learned_sigma": False},
        "guidance": {"use": "cfg", "scale": 3.0},
    }
    values["conditioners"] = [{"use": "two_set", "width": 8, "dropout": 0.1}]
    (place / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["--recipe", str(place / "recipe.yaml"), "--out", str(place / "base"), "--quiet"]) == 0
    return place / "base"


@pytest.fixture(scope="module")
def plain(base: Path) -> Pipeline:
    return ldm_core.load(str(base), device="cpu")


def latents(pipeline: Pipeline, seed: int = 5) -> np.ndarray:
    made = pipeline.sample("a red circle", inputs={"class_label": 1}, images=2, steps=5, seed=seed)
    return np.stack([np.asarray(each.latents) for each in made])


@pytest.mark.parametrize("cache", CACHES)
def test_the_command_line_and_python_sample_the_same(cache: str, base: Path, plain: Pipeline, tmp_path: Path) -> None:
    asked = ["--prompt", "a red circle", "--input", "class_label=1", "--images", "2", "--steps", "5", "--seed", "5"]
    settings = [f"adapters.cache.{key}={value}" for key, value in CACHES[cache].items()]
    assert main(["sample", str(base), "--quiet", *asked, "--out", str(tmp_path), *settings]) == 0
    files = sorted(p for p in tmp_path.iterdir() if p.name != "grid.png")
    cached = plain.with_settings({"adapters": {"cache": CACHES[cache]}})
    ran: list[int] = []
    network: Any = cached.model.denoiser
    handle = network.blocks[-1].mlp.register_forward_hook(lambda *_: ran.append(evaluation().run.step))  # type: ignore[union-attr]
    made = cached.sample("a red circle", inputs={"class_label": 1}, images=2, steps=5, seed=5)
    handle.remove()
    assert ran == RAN[cache]
    assert [Image.open(p).tobytes() for p in files] == [s.image.transpose(1, 2, 0).tobytes() for s in made]
    assert all(f'"use": "{CACHES[cache]["use"]}"' in Image.open(p).info["recipe"] for p in files)
    assert not np.array_equal(latents(cached), latents(plain))


def test_threads_have_the_bits_of_each_alone(plain: Pipeline) -> None:
    several = [plain, *(plain.with_settings({"adapters": {"cache": each}}) for each in CACHES.values())]
    calls = [partial(latents, pipeline, seed) for pipeline in several for seed in (1, 2)]
    alone = [call() for call in calls]
    for found, expected in zip(together(calls), alone, strict=True):
        assert np.array_equal(found, expected)
    for exact in ({"use": "deep_cache", "interval": 1}, {"use": "first_block_cache", "threshold": 0.0}):
        assert np.array_equal(latents(plain.with_settings({"adapters": {"cache": exact}}), 1), alone[0]), exact
