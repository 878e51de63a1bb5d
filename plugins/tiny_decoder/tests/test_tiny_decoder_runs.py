"""The training of a small decoder: a run like any other, its file, and files that are no good."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from class_model import WANTED, recipe
from ldm_plugin_tiny_decoder.config import TinyDecoderConfig
from ldm_plugin_tiny_decoder.network import TinyDecoder
from one_thread import each_module as _one_thread  # noqa: F401
from safetensors.torch import load_file, save_file

import ldm_core
from ldm_core.cli import main
from ldm_core.contracts import LatentSpec, Site
from ldm_core.errors import CheckpointError, ConfigError, LDMError
from ldm_core.recipe import artifacts

STAGE = {"use": "kl_ae", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "norm_groups": 4, "z_channels": 2}
RECIPE = recipe(attention=[], steps=1) | {
    "first_stage": {**STAGE, "mid_attention": False},
    "stage_objective": {"use": "reconstruction"},
    "first_stage_trainer": {"steps": 2, "images_per_step": 4, "statistics_images": 4},
    "sample": {"steps": 2, "images": 1},
}
TINY = [
    "first_stage.widths=[8]",
    "first_stage.blocks=1",
    "first_stage_trainer.images_per_step=4",
    "first_stage_trainer.warmup_steps=0",
    "first_stage_trainer.checkpoint_every=2",
    "first_stage_trainer.validate_images=4",
    "observers=[]",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on latents of factor 2, and a small decoder of 4 steps beside it, made in bf16 by the command."""
    place = tmp_path_factory.mktemp("runs")
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["--recipe", str(place / "recipe.yaml"), "--out", str(place / "base"), "--quiet"]) == 0
    assert decoder(place / "base", "--steps", "4", "first_stage_trainer.precision=bf16") == 0
    return place / "base"


def decoder(run: Path, *words: str) -> int:
    return main(["decoder", str(run), "--quiet", *TINY, *words])


def state(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(file)
    return found


def same(a: Path, b: Path) -> bool:
    mine, theirs = state(a), state(b)
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


def test_the_decoder_lies_beside_the_run_and_says_what_it_is(base: Path) -> None:
    beside, own = base / "decoders" / "tiny.safetensors", base.parent / "base-tiny" / "decoder.safetensors"
    assert beside.read_bytes() == own.read_bytes()
    header = artifacts.read_header(str(beside), "decoder")
    assert header.use == "tiny" and header.config == {"widths": [8], "blocks": 1, "last_blocks": 1}
    assert header.extra["first_stage_sha256"] == artifacts.sha256(str(base / "first_stage.safetensors"))
    assert header.extra["latent"] == {"channels": 2, "stride": [2, 2]} and header.extra["steps"] == 4
    assert not any(name.startswith("decoder.") for name in header.tensors)


def test_pictures_by_the_small_decoder(base: Path) -> None:
    plain = ldm_core.load(str(base), device="cpu")
    tiny, file = plain.with_settings(["sample.decoder=tiny"]), base.parent / "base-tiny"
    (mine,), (theirs,) = (p.sample(inputs=WANTED[:1], steps=2, seed=1) for p in (tiny, plain))
    assert mine.latents is not None and theirs.latents is not None
    assert np.array_equal(mine.latents, theirs.latents) and not np.array_equal(mine.image, theirs.image)
    assert mine.metadata["decoder"] == "tiny"
    (folder,) = plain.with_settings({"sample": {"decoder": str(file)}}).sample(inputs=WANTED[:1], steps=2, seed=1)
    assert np.array_equal(mine.image, folder.image)
    (large,) = tiny.at_size((32, 48)).sample(inputs=WANTED[:1], steps=1, seed=1)
    assert large.image.shape == (3, 32, 48)
    pieces = tiny.at_size((32, 48)).with_settings({"sample": {"tile": 16, "tile_memory": 16}})
    (cut,) = pieces.sample(inputs=WANTED[:1], steps=1, seed=1)
    assert np.abs(cut.image.astype(int) - large.image.astype(int)).max() <= 1


def test_an_interrupted_training_goes_on_bit_for_bit(base: Path) -> None:
    whole, cut = base.parent / "whole", base.parent / "cut"
    drawn = [*TINY, "first_stage.keep=0", "first_stage_trainer.keep_checkpoints=9"]
    assert decoder(base, "--steps", "4", "--out", str(whole), "--name", "a", *drawn) == 0
    seen = 0

    def told(progress: Any) -> bool:
        nonlocal seen
        seen = progress.step
        return progress.step < 2

    recipe_of_it = yaml.safe_load((whole / "recipe.yaml").read_text())
    ldm_core.train(recipe_of_it, out=cut, until="first_stage", callback=told)
    assert seen == 2 and not (cut / "first_stage.safetensors").exists()
    assert decoder(base, "--steps", "4", "--out", str(cut), "--name", "b", *drawn) == 0
    assert same(whole / "decoder.safetensors", cut / "decoder.safetensors")
    kept = base.parent / "kept"  # moments kept in memory are those that are made anew
    assert decoder(base, "--steps", "4", "--out", str(kept), "--name", "c") == 0
    assert same(whole / "decoder.safetensors", kept / "decoder.safetensors")


def test_pictures_without_gradients_are_those_with_them(base: Path) -> None:
    """Without, the layout of maps in memory is another one."""
    made = ldm_core.load(str(base), device="cpu").with_settings(["sample.decoder=tiny"])
    z = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    decoder = TinyDecoder(TinyDecoderConfig(widths=(8,), blocks=1), Site(size=(12, 16), latent=LatentSpec(2, (2, 2))))
    decoder.load_state_dict(state(base / "decoders" / "tiny.safetensors"))
    plain = decoder.decode(z)
    with torch.no_grad():
        other = decoder.decode(z)
    assert plain.requires_grad and other.is_contiguous() and not torch.equal(plain, torch.zeros_like(plain))
    torch.testing.assert_close(other, plain, atol=1e-5, rtol=0)
    shown = ((plain.detach() + 1) * 127.5).clamp(0, 255).round().numpy()
    assert np.abs(made.decode(z).astype(int) - shown).max() <= 1


def test_the_adversarial_loss_trains_it(base: Path, tmp_path: Path) -> None:
    """Of pixels alone it is the mean error itself; a discriminator changes it."""
    losses = {
        "pixels": "stage_objective.loss=l1",
        "same": "stage_objective={use: adversarial, pixel_loss: l1, perceptual: {use: none}, adversarial: false}",
        "judged": "stage_objective={use: adversarial, pixel_loss: l1, perceptual: {use: none}, adversarial_start: 1, "
        "adversarial_weight: 0.5, discriminator_width: 8, discriminator_layers: 1}",
    }
    made = {}
    for name, line in losses.items():
        assert decoder(base, "--out", str(tmp_path / name), "--name", name, "--steps", "3", line) == 0
        made[name] = torch.cat([one.flatten() for one in state(tmp_path / name / "decoder.safetensors").values()])
    torch.testing.assert_close(made["same"], made["pixels"], atol=1e-5, rtol=0)
    assert (made["judged"] - made["pixels"]).abs().max() > 1e-3


def test_it_learns_what_the_stage_decodes(base: Path) -> None:
    """The error beside the stage's own pictures falls."""
    out = base.parent / "taught"
    words = ["--steps", "60", "--target", "decode", "--name", "taught", "--out", str(out)]
    assert decoder(base, *words, "first_stage_trainer.log_every=5", "first_stage_trainer.checkpoint_every=60") == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["stage"] == "first_stage"]
    assert losses[-1] < 0.6 * losses[0]
    plain = ldm_core.load(str(base), device="cpu")
    z = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    own = plain.decode(z).astype(float)
    taught, other = (plain.with_settings([f"sample.decoder={n}"]).decode(z).astype(float) for n in ("taught", "tiny"))
    assert np.abs(taught - own).mean() < np.abs(other - own).mean()


def test_the_first_stage_is_that_of_the_run(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decoder", str(base.parent / "base-tiny"), "--quiet"]) == 2
    assert "give the stage that it was made for" in capsys.readouterr().err
    assert main(["decoder", str(base), "--quiet", "first_stage.channels=3"]) == 2
    assert "first_stage.channels=2" in capsys.readouterr().err
    assert main(["decoder", str(base), "--quiet", "--name", "../x"]) == 2
    assert "letters" in capsys.readouterr().err
    other = recipe(attention=[]) | {"stage_objective": {"use": "decoder_pixels"}}
    with pytest.raises(ConfigError, match="tiny_decoder"):
        ldm_core.train(other | {"first_stage": STAGE}, out=tmp_path / "x", until="first_stage")
    lone = tmp_path / "stage.safetensors"
    lone.write_bytes((base / "first_stage.safetensors").read_bytes())
    assert main(["decoder", str(lone), "--quiet"]) == 2
    assert "names pictures" in capsys.readouterr().err


def _changed(file: Path, base: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    source = base / "decoders" / "tiny.safetensors"
    with open(source, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        body = json.loads(json.loads(opened.read(length))["__metadata__"]["ldm_core"])
    tensors = state(source)
    change(body, tensors)
    save_file(tensors, file, metadata={"ldm_core": json.dumps(body)})
    return file


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], Any], str]] = {
    "wider": (lambda body, own: body["config"].update(widths=[1024, 1024]), "another architecture"),
    "huge": (lambda body, own: body["config"].update(widths=[10**12]), "widths"),
    "deep": (lambda body, own: body["config"].update(blocks=10**9), "blocks"),
    "text": (lambda body, own: body["config"].update(widths="os.system"), "widths"),
    "unknown key": (lambda body, own: body["config"].update(run="ls"), "run"),
    "missing tensor": (lambda body, own: own.pop("1.weight"), "1 missing"),
    "foreign tensor": (lambda body, own: own.update(x=torch.zeros(1)), "1 unexpected"),
    "other shape": (lambda body, own: own.update({"1.bias": torch.zeros(9)}), "another shape"),
    "unknown part": (lambda body, own: body.update(use="os.system"), "decoder"),
    "latent": (lambda body, own: body.update(latent=[[]] * 50), "decodes latents of"),
    "channels": (lambda body, own: body.update(image_channels=1), "1 channels"),
    "hash": (lambda body, own: body.update(first_stage_sha256="\x1b[2J" * 99), "another first stage"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_error(case: str, base: Path, tmp_path: Path) -> None:
    change, words = HOSTILE[case]
    file = _changed(tmp_path / "file.safetensors", base, change)
    pipeline = ldm_core.load(str(base), device="cpu").with_settings({"sample": {"decoder": str(file)}})
    with pytest.raises(LDMError, match=words) as error:
        pipeline.decode(torch.zeros(1, 2, 8, 8))
    assert "\x1b" not in str(error.value)


def test_damaged_files_are_one_error(base: Path, tmp_path: Path) -> None:
    whole = (base / "decoders" / "tiny.safetensors").read_bytes()
    pipeline = ldm_core.load(str(base), device="cpu")
    for number, content in enumerate((b"", whole[:100], whole[:-50], b"\x80\x04cos\nsystem\n" * 99)):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            pipeline.with_settings({"sample": {"decoder": str(file)}}).decode(torch.zeros(1, 2, 8, 8))
