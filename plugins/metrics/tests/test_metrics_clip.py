"""CMMD and CLIP's image tower, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_metrics.distances.config import CMMDConfig, FDConfig
from ldm_plugin_metrics.distances.frechet import FrechetDistance
from ldm_plugin_metrics.distances.kernel import CMMD
from ldm_plugin_metrics.networks.clip import MEAN, STD, ClipTower
from ldm_plugin_metrics.networks.config import WeightsConfig

from ldm_core.contracts import Pictures
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.nn.torchvision_operators import importable
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known

SITE: Any = None
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 16,
    "projection_dim": 24,
}


@pytest.fixture(scope="module")
def transformers() -> Any:
    with importable():
        return pytest.importorskip("transformers", reason="transformers is the oracle of CLIP's image tower")


@pytest.fixture(scope="module")
def saved(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A folder with a small tower, and the tower."""
    torch.manual_seed(0)
    tower = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**SIZES)).eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("clip")
    tower.save_pretrained(folder)
    return str(folder), tower


class TestCMMD(MetricSuite):
    component = "cmmd"

    @pytest.fixture(autouse=True)
    def _weights(self, saved: tuple[str, Any]) -> None:
        self.settings = {"weights": saved[0]}  # type: ignore[misc]

    def known(self) -> Known:
        """Two points at right angles: 1000 (1 + 1 - 2 exp(-2 / 200))."""
        own, against = np.eye(2, 24, dtype=np.float32)
        rows = {"embedding": np.tile(own, (3, 1))}, {"embedding": np.tile(against, (5, 1))}
        return Known(*rows, {"cmmd": 2000 * -np.expm1(-0.01)})


@pytest.mark.parametrize("whole", [False, True])
def test_embeddings_are_transformers(transformers: Any, saved: tuple[str, Any], whole: bool, tmp_path: Path) -> None:
    """Of the image half and of a whole CLIP's file."""
    folder, tower = saved
    if whole:
        config = transformers.CLIPConfig(
            vision_config=SIZES | {"hidden_act": "gelu"}, text_config={"num_hidden_layers": 1}, projection_dim=24
        )
        tower, folder = transformers.CLIPModel(config).eval(), str(tmp_path / "model.safetensors")
        tower.save_pretrained(tmp_path)
    images = torch.randint(0, 256, (3, 3, 30, 40), dtype=torch.uint8)
    pixels = torch.nn.functional.interpolate(images / 255, size=(48, 48), mode="bicubic")
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        vectors = tower.visual_projection(tower.vision_model(pixel_values=pixels).pooler_output)
    metric = CMMD(CMMDConfig(weights=folder), SITE)
    found = metric.measure(Pictures(images))["embedding"]
    np.testing.assert_allclose(found, vectors / vectors.norm(dim=-1, keepdim=True), atol=1e-5)
    assert metric.label.startswith("CMMD, CLIP ViT 2 x 64, 48 px, weights ")
    distance = FrechetDistance(FDConfig(network="clip", weights=folder, allow_few=True), SITE)
    assert distance.source == metric.source


def test_a_distance_of_embeddings_is_the_kernels(saved: tuple[str, Any]) -> None:
    """Means over all pairs, one by one."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 24)).astype(np.float32), random.normal(1, 1, (7, 24)).astype(np.float32)

    def mean(x: Any, y: Any) -> float:
        return float(np.mean([np.exp(-np.square(p - q).sum(dtype=np.float64) / 200) for p in x for q in y]))

    found = CMMD(CMMDConfig(weights=saved[0]), SITE).values({"embedding": a}, {"embedding": b})["cmmd"]
    assert found == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-6)


def test_what_is_no_tower_is_refused(tmp_path: Path) -> None:
    """Without a file, with a seed, and of another file: a line that tells how to get one."""
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"vision_model.odd": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="CLIPVisionModelWithProjection"):
        ClipTower(WeightsConfig())
    with pytest.raises(ConfigError, match="random_seed: clip"):
        ClipTower(WeightsConfig(random_seed=1))
    with pytest.raises(CheckpointError, match=r"no image tower of CLIP: it lacks vision_model\.embeddings\.class"):
        ClipTower(WeightsConfig(weights=str(tmp_path / "w.safetensors")))
