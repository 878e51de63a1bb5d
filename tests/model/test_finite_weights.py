"""Weights that are not finite: counted in every type and container, and named where they are read."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from safetensors.torch import save_file
from torch import Tensor
from training_runs import go

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.errors import CheckpointError, LDMError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.finite import WeightsWarning, bad_tensors, bad_values, in_words
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import versions
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.weights.source import open_source

CATALOG = Catalog.discover()
NAN, INF = float("nan"), float("inf")
TYPES = ["float16", "bfloat16", "float32", "float64"]
RECIPE: dict[str, Any] = {
    "image_size": [16, 16],
    "scale": "small",
    "first_stage": {"use": "kl_f4", "channels": 16, "norm_groups": 8},
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "heads": 2, "attention": [2], "norm_groups": 8},
    "parameterization": "v",
    "guidance": "none",
    "sampler": "ddim",
    "sample": {"steps": 2, "images": 2, "batch": 2},
}


# ---------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", [1, 5, 65_536, 65_537, 200_000])
def test_counts_are_those_of_torch(dtype: str, length: int) -> None:
    """At the ends and the middle of a tensor, across the pieces in which it is read."""
    value = torch.randn(length, generator=torch.Generator().manual_seed(length)).to(getattr(torch, dtype))
    value[:1] = torch.finfo(value.dtype).max
    assert bad_tensors({"w": value}) == {}
    for i, number in ((length - 1, NAN), (length // 2, INF), (length // 3, -INF)):
        value[i] = number
    expected = int((~value.isfinite()).sum())
    assert bad_tensors({"w": value})["w"].count == expected


@pytest.mark.parametrize(
    ("dtype", "byte", "bad"),
    [
        ("float8_e4m3fn", 0x7F, True),
        ("float8_e4m3fn", 0x7E, False),
        ("float8_e5m2", 0xFC, True),
        ("float8_e5m2", 0x7B, False),
        ("float8_e4m3fnuz", 0x80, True),
        ("float8_e5m2fnuz", 0x7F, False),
    ],
)
def test_eight_bits_are_told_as_torch_tells_them(dtype: str, byte: int, bad: bool) -> None:
    data = torch.tensor([0, byte, 1], dtype=torch.uint8)
    seen = data.view(getattr(torch, dtype)).float().isfinite().all()
    assert bool(seen) is not bad
    assert bad_values(data.numpy(), dtype) == int(bad)


def test_a_value_beyond_half_precision_counts() -> None:
    assert bad_tensors({"w": torch.tensor([65504.0, 1e6]).half()})["w"].count == 1


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 3, 4)])
def test_any_shape_and_layout(shape: tuple[int, ...]) -> None:
    value = torch.full(shape, NAN)
    found = bad_tensors({"w": value, "whole": torch.ones(3, dtype=torch.int64)})
    assert (found["w"].count if found else 0) == value.numel()
    if value.dim() > 1:
        assert bad_tensors({"w": value.transpose(0, 1)})["w"].count == value.numel()


def test_a_mask_may_hold_minus_infinity() -> None:
    """OpenCLIP keeps the mask of its attention with its weights."""
    mask = torch.full((4, 4), -INF).triu(1)
    assert bad_tensors({"text.attn_mask": mask}) == {}
    assert "text.bias" in bad_tensors({"text.bias": mask})


def test_words_name_the_first_and_count_the_rest() -> None:
    bad = bad_tensors({f"part.{i}": torch.tensor([NAN] + [1.0] * i) for i in range(5)})
    text = in_words(bad)
    assert "5 tensors hold" in text and "part.0 (all 1)" in text and "part.1 (1 of 2)" in text and "2 more" in text


# ------------------------------------------------------------------------------------------------------------ files


def _spoilt(tensors: dict[str, Tensor], name: str, change: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    out = {k: v.clone() for k, v in tensors.items()}
    change(out[name])
    return out


def _fill(number: float) -> Callable[[Tensor], Any]:
    return lambda tensor: tensor.view(-1)[:1].fill_(number)


CHANGES = {
    "NaN": _fill(NAN),
    "infinity": _fill(INF),
    "minus infinity": _fill(-INF),
    "all of a tensor": lambda tensor: tensor.fill_(NAN),
    "the last value": lambda tensor: tensor.view(-1)[-1:].fill_(NAN),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "folder", "shards"])
def test_inspect_names_them(change: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = {"a.weight": torch.randn(4, 4), "b.bias": torch.randn(7).half(), "c.ids": torch.arange(3)}
    tensors = _spoilt(fine, "b.bias", CHANGES[change])
    place = tmp_path / "model.safetensors"
    if kind in ("zip", "legacy"):
        place = tmp_path / "model.ckpt"
        torch.save({"state_dict": tensors}, place, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "shards":
        save_file({"a.weight": tensors["a.weight"], "c.ids": tensors["c.ids"]}, tmp_path / "m-1.safetensors")
        save_file({"b.bias": tensors["b.bias"]}, tmp_path / "m-2.safetensors")
        index = {"weight_map": {"a.weight": "m-1.safetensors", "c.ids": "m-1.safetensors", "b.bias": "m-2.safetensors"}}
        (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
        place = tmp_path
    else:
        save_file(tensors, place)
        place = tmp_path if kind == "folder" else place
    assert main(["inspect", str(place)]) == 0
    text = capsys.readouterr().out
    count = 7 if change == "all of a tensor" else 1
    assert f"not finite (NaN or infinite), by tensor: b.bias ({count})" in text, text
    assert main(["inspect", str(place), "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["not_finite"] == {"b.bias": count}


def test_inspect_says_nothing_of_sound_weights_and_reads_them_without_torch(tmp_path: Path) -> None:
    save_file({"a.weight": torch.randn(4, 4), "attn_mask": torch.full((2, 2), -INF)}, tmp_path / "m.safetensors")
    code = (
        "import sys; from ldm_core.cli import main; main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(tmp_path / "m.safetensors")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "finite" not in done.stdout


def test_bytes_are_those_of_the_tensor(tmp_path: Path) -> None:
    value = torch.randn(5, 3)
    torch.save({"w": value, "half": value.bfloat16()}, tmp_path / "m.pt")
    file = open_source(str(tmp_path / "m.pt")).tensors()
    assert file.span("w").tobytes() == value.numpy().tobytes()
    assert len(file.span("half")) == 30
    with pytest.raises(CheckpointError, match="no tensor"):
        file.span("absent")


# ------------------------------------------------------------------------------------------- loading and converting


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder of fresh weights."""
    out = tmp_path_factory.mktemp("fresh")
    recipe = resolve(RECIPE, CATALOG)
    stage: Any = make_first_stage(recipe, CATALOG)
    model = make_model(recipe, CATALOG, stage)
    known = versions(recipe, CATALOG)
    part = {k: v for k, v in recipe.first_stage.plain().items() if k != "use"}
    meta = artifacts.metadata("first_stage", recipe.first_stage.use, part, known, image_size=[16, 16], image_channels=3)
    save_file({k: v.contiguous() for k, v in stage.state_dict().items()}, out / artifacts.STAGE_FILE, metadata=meta)
    meta = artifacts.metadata(
        "model",
        recipe.denoiser.use,
        recipe.carried(),
        known,
        first_stage_sha256=artifacts.sha256(str(out / artifacts.STAGE_FILE)),
    )
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / artifacts.MODEL_FILE, metadata=meta)
    return out


def _with(run: Path, out: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of a run whose model's tensors were changed."""
    from safetensors import safe_open

    out.mkdir(exist_ok=True)
    (out / artifacts.STAGE_FILE).write_bytes((run / artifacts.STAGE_FILE).read_bytes())
    with safe_open(run / artifacts.MODEL_FILE, "pt") as file:
        meta, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, out / artifacts.MODEL_FILE, metadata=meta)
    return out


def _first(tensors: dict[str, Tensor], ending: str = ".bias") -> str:
    return next(k for k in sorted(tensors) if k.startswith("denoiser.") and k.endswith(ending))


def test_loading_names_them_and_sound_weights_need_no_word(run: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        Pipeline.load(str(run), device="cpu")
    names: list[str] = []

    def spoil(tensors: dict[str, Tensor]) -> None:
        names.append(_first(tensors))
        tensors[names[0]][0] = NAN

    bad = _with(run, tmp_path / "bad", spoil)
    with pytest.warns(WeightsWarning, match="1 tensor holds values that are not finite") as told:
        Pipeline.load(str(bad), device="cpu")
    assert any(names[0] in str(w.message) and "model.safetensors" in str(w.message) for w in told)


@pytest.mark.parametrize("settings", [(), ("denoiser.norm_groups=8",)], ids=["by its header", "by a codec"])
def test_sampling_from_them_ends_with_an_error(
    settings: tuple[str, ...], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = _with(run, tmp_path / "bad", lambda t: t[_first(t)].fill_(NAN))
    assert main(["sample", str(bad), *settings, "--images", "1", "--out", str(tmp_path / "s"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "warning:" in said and "not finite" in said and "error:" in said and "Traceback" not in said
    assert not list((tmp_path / "s").glob("0*.png"))


def test_converting_names_them(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = _with(run, tmp_path / "bad", lambda t: t[_first(t)].fill_(INF))
    assert main(["convert", str(bad), str(tmp_path / "out"), "--to", "ldm"]) == 0
    assert "1 tensor holds values that are not finite (NaN or infinite): denoiser." in capsys.readouterr().err


def test_weights_beyond_half_precision_are_named_where_they_are_rounded(run: Path, tmp_path: Path) -> None:
    large = _with(run, tmp_path / "large", lambda t: t[_first(t, "0.0.weight")].fill_(1e5))
    with pytest.warns(WeightsWarning, match="at precision fp16.*bf16"):
        Pipeline.load(str(large), device="cpu", precision="fp16")
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        Pipeline.load(str(large), device="cpu", precision="bf16")


# --------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    go(out, "trainer.steps=2", "trainer.checkpoint_every=1", stages=("first_stage", "latents", "denoiser"))
    return out


def test_training_does_not_start_from_them(trained: Path, tmp_path: Path) -> None:
    bad = _with(trained, tmp_path / "bad", lambda t: t[_first(t)].fill_(NAN))
    with pytest.raises(CheckpointError, match=r"trainer\.init_from: .*not finite .*denoiser\..*; training would begin"):
        go(tmp_path / "new", "trainer.steps=1", f"trainer.init_from={bad}", first_stage=str(trained),
           stages=("first_stage", "latents", "denoiser"))  # fmt: skip


def test_training_does_not_go_on_from_them(trained: Path) -> None:
    from ldm_core.training.checkpoints import files

    (trained / artifacts.MODEL_FILE).unlink()
    newest = max((trained / "checkpoints" / "denoiser").iterdir(), key=lambda p: p.name)
    (file,) = newest.glob("*.safetensors")
    before = artifacts.sha256(str(file))
    header, begin = artifacts.raw_header(str(file))
    name = next(k for k in sorted(header) if "/state/" in k and k.endswith(".bias"))
    with file.open("r+b") as stream:
        stream.seek(begin + header[name]["data_offsets"][0])
        stream.write(torch.tensor([NAN]).numpy().tobytes())
    manifest = newest / files.MANIFEST
    manifest.write_text(manifest.read_text().replace(before, artifacts.sha256(str(file))))
    with pytest.raises(LDMError, match=r"1 tensor holds values that are not finite .*training cannot go on from it"):
        go(trained, "trainer.steps=2", "trainer.checkpoint_every=1", stages=("first_stage", "latents", "denoiser"))
