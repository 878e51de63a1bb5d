"""Agreement of pictures and texts by CLIP, against transformers' own processor and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from clip_words import vocabulary, write_folder
from ldm_plugin_metrics.conditional.config import TextScoreConfig
from PIL import Image

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError, PromptWarning
from ldm_core.nn.torchvision_operators import importable
from ldm_core.testing import MetricSuite
from ldm_core.testing.metrics.suite import Known

SITE = Site(size=(32, 32))
TEXTS = ["a red cat", "a photo of the blue house on a square", "star", "a painting of dogs"]


@pytest.fixture(scope="module")
def transformers() -> Any:
    with importable():
        return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def folder(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights, as transformers saves it, and its tokenizer."""
    vocab, _ = vocabulary()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1, "pad_token_id": len(vocab) - 1}
    text = {**sizes, "vocab_size": len(vocab), "max_position_embeddings": 64, **ends}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**sizes, "image_size": 24, "patch_size": 8}, projection_dim=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    made: Path = tmp_path_factory.mktemp("clip") / "model"
    model.save_pretrained(made)
    return write_folder(made)


def pictures(size: tuple[int, int] = (40, 52)) -> Pictures:
    levels = np.random.default_rng(0).integers(0, 256, (4, 3, *(each // 4 for each in size)), np.uint8)
    return Pictures(torch.from_numpy(levels.repeat(4, 2).repeat(4, 3)), range(4), {"caption": TEXTS})


def metric(folder: Path) -> Any:
    from ldm_plugin_metrics.conditional.text_score import TextScore

    return TextScore(TextScoreConfig(weights=str(folder)), SITE)


class TestTextScoreConformance(MetricSuite):
    component = "text_score"

    @pytest.fixture(autouse=True)
    def _weights(self, folder: Path) -> None:
        self.settings = {"weights": str(folder)}  # type: ignore[misc]

    def known(self) -> Known:
        """The mean of two."""
        return Known({"text_score": np.array([-0.25, 0.75])}, None, {"text_score": 0.25})


@pytest.mark.parametrize("size", [(40, 52), (24, 24), (16, 12)])
def test_it_is_transformers_own_answer(transformers: Any, folder: Path, size: tuple[int, int]) -> None:
    """Of its processor's pixels, in Pillow, and its tokenizer's words."""
    given = pictures(size)
    name = "transformers.models.clip.image_processing_pil_clip"
    module = pytest.importorskip(name, reason="this transformers has no processor by Pillow")
    processor = module.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    shown = [Image.fromarray(each) for each in given.images.permute(0, 2, 3, 1).numpy()]
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        model = transformers.CLIPModel.from_pretrained(folder).eval()
        found = model(pixel_values=processor(shown, return_tensors="pt")["pixel_values"], **tokens)
    expected = (found.image_embeds * found.text_embeds).sum(1)
    ours = metric(folder).measure(given)["text_score"]
    assert np.allclose(ours, expected, rtol=1e-4, atol=1e-6)
    assert ours.std() > 0.01


def test_text_beyond_the_model_is_cut_with_a_warning(folder: Path) -> None:
    given = pictures()
    long = attrs.evolve(given, examples={"caption": [" ".join(["red"] * 90), *TEXTS[1:]]})
    with pytest.warns(PromptWarning, match="reads 64 tokens"):
        assert np.isfinite(metric(folder).measure(long)["text_score"]).all()


def test_what_is_no_text_or_no_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text"):
        metric(folder).measure(attrs.evolve(pictures(), examples={"caption": torch.arange(4)}))
    assert ["missing" in line for line in TextScoreConfig().check(SITE)] == [True]
    with pytest.raises(ConfigError, match=r"no config\.json"):
        metric(tmp_path)
    for left_out, said in (("merges.txt", "tokenizer"), ("model.safetensors", "holds none of")):
        copy = tmp_path / left_out
        copy.mkdir()
        for file in folder.iterdir():
            if file.name != left_out:
                (copy / file.name).write_bytes(file.read_bytes())
        with pytest.raises((ConfigError, CheckpointError), match=said):
            metric(copy)
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    text = (folder / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(CheckpointError, match="of another shape"):
        metric(copy)
    (copy / "config.json").write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1000000000'))
    with pytest.raises(CheckpointError, match="layers"):
        metric(copy)
