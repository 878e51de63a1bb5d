"""CLIP's text encoder against transformers' own; names, weights, the null, what is cut, the state."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from clip_words import vocabulary, write_folder
from ldm_plugin_clip_text.conditioner import ClipTextConditioner
from ldm_plugin_clip_text.config import PRESETS, ClipTextConfig
from ldm_plugin_clip_text.tokenizer import TruncationWarning
from safetensors.torch import load_file, save_file

from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError

SITE = Site(size=(64, 64), latent=LatentSpec(4, (8, 8)))
SMALL = ClipTextConfig(vocab_size=900, width=32, layers=3, heads=4, inner=64, length=77)
CAPTIONS = ["a photo of a red cat", "", "Naïve café!  привет 日本語", "the blue star " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("clip"))


def build(config: ClipTextConfig, seed: int = 0) -> ClipTextConditioner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = ClipTextConditioner(config, SITE).eval()
        for parameter in text.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return text


def encode(text: ClipTextConditioner, captions: list[str]) -> torch.Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        found = text.encode({"caption": captions})
    assert found.crossattn is not None and found.crossattn_mask is None
    return found.crossattn


@pytest.mark.parametrize(
    ("preset", "count", "tensors"), [("clip_text_sd1", 123_060_480, 196), ("clip_text_sd2", 340_387_840, 372)]
)
def test_published_sizes(preset: str, count: int, tensors: int) -> None:
    with torch.device("meta"):
        text = ClipTextConditioner(PRESETS[preset], SITE)
    shapes = {k: tuple(v.shape) for k, v in text.named_parameters()}
    assert sum(p.numel() for p in text.parameters()) == count
    assert len(shapes) == tensors and set(text.state_dict()) - set(shapes) == {"_extra_state"}
    width, last = PRESETS[preset].width, PRESETS[preset].layers - 1
    at = "transformer.text_model."
    assert shapes[at + "embeddings.token_embedding.weight"] == (49408, width)
    assert shapes[at + "embeddings.position_embedding.weight"] == (77, width)
    assert shapes[f"{at}encoder.layers.{last}.self_attn.q_proj.bias"] == (width,)
    assert shapes[f"{at}encoder.layers.{last}.mlp.fc1.weight"] == (4 * width, width)
    assert shapes[at + "final_layer_norm.weight"] == (width,)


@pytest.mark.parametrize(("activation", "padding"), [("quick_gelu", "<|endoftext|>"), ("gelu", "!")])
@pytest.mark.parametrize("skip", [0, 1])
def test_the_same_vectors_as_transformers(folder: Path, activation: Any, padding: str, skip: int) -> None:
    """Stable Diffusion 1: OpenAI's activation, padded with the end; 2: GELU, padded with id 0, last but one layer."""
    config = attrs.evolve(SMALL, activation=activation, padding=padding, skip=skip, tokenizer=str(folder))
    text = build(config)
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, pad_token=padding)
    captions = [c.replace("!", "?") for c in CAPTIONS] if padding == "!" else CAPTIONS
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")["input_ids"]
    assert ids.shape == (4, 77) and ids[1].tolist()[2:] == 75 * [vocab[padding]]
    oracle = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=900,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            hidden_act=activation,
        )
    ).eval()
    state = {k.removeprefix("transformer."): v for k, v in text.state_dict().items() if k != "_extra_state"}
    if "text_model.final_layer_norm.bias" not in oracle.state_dict():
        state = {k.removeprefix("text_model."): v for k, v in state.items()}
    oracle.load_state_dict(state)
    with torch.no_grad():
        out = oracle(input_ids=ids, output_hidden_states=True)
        norm = getattr(oracle, "text_model", oracle).final_layer_norm
        want = norm(out.hidden_states[-2]) if skip else out.last_hidden_state
    got = encode(text, captions)
    assert got.shape == (4, 77, 32)
    assert (got - want).abs().max() <= 1e-6 * max(1.0, float(want.abs().max()))
    assert (got[0] - got[2]).abs().max() > 0.1


def test_rows_and_the_null(folder: Path) -> None:
    text = build(attrs.evolve(SMALL, tokenizer=str(folder)))
    seen: list[int] = []
    text.transformer.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    some = [CAPTIONS[i] for i in (2, 0, 2, 1)]
    together = encode(text, some)
    assert seen == [3]  # each different caption once
    for row, caption in zip(together, some, strict=True):
        torch.testing.assert_close(row, encode(text, [caption])[0], atol=1e-5, rtol=0)
    with torch.no_grad():
        null = text.null(text.encode({"caption": some}))
        assert text.encode({"caption": []}).crossattn.shape == (0, 77, 32)  # type: ignore[union-attr]
    assert null.crossattn is not None
    torch.testing.assert_close(null.crossattn[2], together[3], atol=1e-5, rtol=0)


def test_what_is_cut_is_said(folder: Path) -> None:
    text = build(attrs.evolve(SMALL, length=8, tokenizer=str(folder)))
    assert text.truncated("a red star") == ""
    assert text.truncated("a red star on the blue circle of") == "circle of"
    long = "a red star on the blue circle of the cat"
    with pytest.warns(TruncationWarning, match=r"is longer than 8 tokens; cut off: 'circle of the cat'"):
        text.encode({"caption": [long]})
    text.train()
    with warnings.catch_warnings():  # training has said it once
        warnings.simplefilter("error")
        text.encode({"caption": [long]})


def test_the_state_is_all_there_is(folder: Path, tmp_path: Path) -> None:
    text = build(attrs.evolve(SMALL, tokenizer=str(folder)))
    want = encode(text, CAPTIONS)
    state = text.state_dict()
    assert state["_extra_state"].dtype == torch.uint8 and state["_extra_state"].numel() > 0
    save_file(state, tmp_path / "text.safetensors")
    other = build(SMALL, seed=1)
    with pytest.raises(ConfigError, match="it has no tokenizer"):
        encode(other, CAPTIONS)
    other.load_state_dict(load_file(tmp_path / "text.safetensors"))
    assert torch.equal(encode(other, CAPTIONS), want)
    assert torch.equal(encode(copy.deepcopy(text), CAPTIONS), want)
    with torch.device("meta"):  # and nothing that a module made without memory would lack
        empty = ClipTextConditioner(SMALL, SITE)
    empty.load_state_dict(state, assign=True)
    assert torch.equal(encode(empty, CAPTIONS), want)


@pytest.mark.parametrize("layout", ["transformers 4", "transformers 5", "both halves"])
def test_weights_to_start_from(folder: Path, tmp_path: Path, layout: str) -> None:
    trained = build(SMALL)
    prefix = "transformer." if layout != "transformers 5" else "transformer.text_model."
    stored = {k.removeprefix(prefix): v.clone() for k, v in trained.named_parameters()}
    if layout == "both halves":
        stored |= {"logit_scale": torch.ones(()), "vision_model.post_layernorm.bias": torch.ones(3)}
    save_file(stored, tmp_path / "model.safetensors")
    config = attrs.evolve(SMALL, tokenizer=str(folder), weights=str(tmp_path / "model.safetensors"))
    assert config.pretrained and not SMALL.pretrained
    text = build(config, seed=1)
    text.fit([])
    assert all(torch.equal(a, b) for a, b in zip(text.parameters(), trained.parameters(), strict=True))
    with pytest.raises(CheckpointError, match=r"16 of 68 tensors are missing, the first is '.*layers\.3\."):
        build(attrs.evolve(config, layers=4)).fit([])
    with pytest.raises(CheckpointError, match=r"has shape \(900, 32\), \(901, 32\) is built; set width"):
        build(attrs.evolve(config, vocab_size=901)).fit([])


def test_precision(folder: Path) -> None:
    text = build(attrs.evolve(SMALL, tokenizer=str(folder)))
    exact = encode(text, CAPTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encode(text, CAPTIONS)
    assert exact.dtype == rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_what_does_not_fit_is_said(folder: Path, tmp_path: Path) -> None:
    assert list(SMALL.check(SITE)) == [] and SMALL.spec(LatentSpec(4)) == CondSpec(crossattn=32)
    wrong = attrs.evolve(
        SMALL, heads=5, skip=3, length=2, inner=0, tokenizer=str(tmp_path), weights=str(tmp_path / "none.safetensors")
    )
    lines = "\n".join(wrong.check(SITE))
    for part in (
        "inner is 0",
        "32 does not go into 5 heads",
        "skip is 3 of 3 layers",
        "length is 2",
        "holds neither",
        "weights: no",
    ):
        assert part in lines
    assert "no file or folder" in next(iter(attrs.evolve(SMALL, tokenizer="nowhere").check(SITE)))
    text = build(attrs.evolve(SMALL, tokenizer=str(folder), vocab_size=100))
    with pytest.raises(ConfigError, match=r"its ids go up to \d+ and vocab_size is 100; set vocab_size="):
        encode(text, CAPTIONS)
    text = build(attrs.evolve(SMALL, tokenizer=str(folder)))
    with pytest.raises(DataError, match=r"'caption' of example 1 is int"):
        text.encode({"caption": ["a", 1]})
    with pytest.raises(DataError, match="a list of texts is needed"):
        text.encode({"caption": "a"})


def test_the_recipe_hashes_the_tokenizer_and_freezes_by_default(folder: Path) -> None:
    from ldm_core.catalog import Catalog
    from ldm_core.recipe.recipe import Recipe
    from ldm_core.recipe.resolve import resolve

    catalog = Catalog.discover(["clip_text"])

    def made(**fields: Any) -> Recipe:
        part = {"use": "clip_text", "tokenizer": str(folder), **fields}
        plain = {"image_size": 32, "first_stage": "identity", "dataset": "shapes", "conditioners": [part]}
        return resolve(plain, catalog)

    recipe = made()
    assert recipe.conditioners[0].train is False and made(train=True).conditioners[0].train is True
    config: Any = recipe.conditioners[0].config
    assert len(config.tokenizer_sha256) == 64
    before, merges = recipe.identity(), (folder / "merges.txt").read_bytes()
    try:
        (folder / "merges.txt").write_bytes(merges[: merges.rindex(b"\n", 0, -1) + 1])
        assert made().identity() != before
        with pytest.raises(ConfigError, match="is not the file that the recipe was made with"):
            made(tokenizer_sha256=config.tokenizer_sha256)
    finally:
        (folder / "merges.txt").write_bytes(merges)
    assert made().identity() == before


def broken_torchvision(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('built for another torch')\n")


@pytest.mark.slow
def test_transformers_imports_beside_a_torchvision_that_does_not(tmp_path: Path) -> None:
    broken_torchvision(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from ldm_plugin_clip_text.network import ClipText\n"
        "from ldm_plugin_clip_text.config import ClipTextConfig\n"
        "model = ClipText(ClipTextConfig(width=8, heads=1, inner=8, layers=1, vocab_size=9))\n"
        "print(sum(p.numel() for p in model.parameters()), 'torchvision' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    layer = 4 * (8 * 8 + 8) + 2 * (8 * 8 + 8) + 2 * 16
    assert done.stdout.split() == [str(9 * 8 + 77 * 8 + layer + 16), "False"]
