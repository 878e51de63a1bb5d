"""Exported networks against torch's: at sizes and batches, in a loop of numpy alone, and one line of each refusal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ldm_plugin_onnx import graph, library, network
from ldm_plugin_onnx.weights_file import WeightsFile
from one_thread import each_module as _one_thread  # noqa: F401
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts import Cond
from ldm_core.contracts.codec import ModelWeights
from ldm_core.errors import ConfigError
from ldm_core.sampling.load import assemble
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing.suites.codec import random_weights
from ldm_core.weights import write

STAGE = {"use": "kl_ae", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "norm_groups": 4, "z_channels": 3}
UNET = {"use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
        "norm_groups": 4}  # fmt: skip
COMMON: dict[str, Any] = {"image_size": 16, "first_stage": STAGE, "denoiser": UNET, "sampler": "ddim",
                          "sample": {"steps": 4}}  # fmt: skip
MODELS: Mapping[str, Mapping[str, Any]] = {
    "text": {
        **COMMON,
        "conditioners": [
            {"use": "text", "width": 8, "layers": 1, "vocab_size": 64, "length": 8, "mask": True, "dropout": 0.1},
            {"use": "class_label", "classes": 3, "width": 8, "dropout": 0.1},
        ],
        "guidance": {"use": "cfg", "scale": 3.0},
    },
    "maps": {
        **COMMON,
        "first_stage": {**STAGE, "use": "vq_ae", "codebook_size": 16},
        "conditioners": [{"use": "semantic_map", "classes": 3, "channels": 2, "dropout": 0.1}],
        "guidance": {"use": "cfg", "scale": 2.0},
        "schedule": "rectified_flow",
        "parameterization": "flow",
    },
    "unconditional": {**COMMON, "parameterization": "eps"},
}
TINY: dict[str, Any] = {
    **COMMON,
    "first_stage": {**STAGE, "channels": 4, "norm_groups": 2, "mid_attention": False, "z_channels": 2},
    "denoiser": {**UNET, "channels": 4, "channel_mult": [1], "heads": 1, "attention": [], "norm_groups": 2},
}
TYPES = {"fp16": "float16", "bf16": "bfloat16"}
SCALES = {"text": 3.0, "maps": 2.0, "unconditional": 1.0}
CAPTIONS = ["a red circle", "a blue square", "a red star"]


@cache
def weights(name: str) -> ModelWeights:
    found = random_weights(MODELS[name])
    if name != "text":
        return found
    from ldm_plugin_bert_text.tokenizer import train_tokenizer

    words = torch.tensor(list(train_tokenizer(CAPTIONS * 20, 64, lowercase=True)), dtype=torch.uint8)
    return ModelWeights(
        recipe=found.recipe,
        first_stage=found.first_stage,
        model={**(found.model or {}), "conditioners.text._extra_state": words},
    )


@cache
def pipeline(name: str) -> Pipeline:
    loaded = assemble(weights(name), Catalog.discover())
    return Pipeline(loaded.recipe, loaded.stage, loaded.model, loaded.catalog)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("exported")

    @cache
    def folder(name: str) -> Path:
        put(weights(name), base / name)
        return base / name

    return folder


def put(given: ModelWeights, target: Path) -> list[str]:
    made = write.written_by("onnx", given, target.name, Catalog.discover())
    write.put(made, str(target))
    return list(made.notes)


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return found


def run(file: Path, *tensors: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(file))
    names = [put.name for put in session.get_inputs()]
    given = {name: value.numpy() for name, value in zip(names, tensors, strict=True)}
    return [torch.from_numpy(each) for each in session.run(None, given)]


def close(found: Tensor, wanted: Tensor, bound: float = 1e-5) -> bool:
    return found.shape == wanted.shape and float((found - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_those_of_torch_at_every_size(exported: Callable[[str], Path], name: str) -> None:
    """Two batches of two sizes each; every file passes ONNX's own checker."""
    folder, own = exported(name), pipeline(name)
    stage: Any = own.stage
    for rows, (high, wide) in ((1, (8, 8)), (3, (12, 16))):
        generator = torch.Generator().manual_seed(rows)
        normal = partial(torch.randn, generator=generator)
        x, level = normal(rows, 3, high, wide), torch.arange(rows) * 50.0
        cond = Cond()
        if name == "text":
            mask = torch.rand(rows, 9, generator=generator) < 0.7
            cond = Cond(crossattn=normal(rows, 9, 8), crossattn_mask=mask.index_fill(1, torch.tensor([0]), True))
        if name == "maps":
            cond = Cond(concat=normal(rows, 2, high, wide))
        with torch.no_grad():
            wanted = own.model.denoiser(x, level, cond)  # type: ignore[operator]
            pictures = stage.decode(x)
            moments = stage.encode_moments(pictures)
            latents = stage.latents(moments)
        assert close(run(folder / "denoiser.onnx", x, level, *cond.flat().values())[0], wanted)
        assert close(run(folder / "decoder.onnx", x)[0], pictures)
        found = run(folder / "encoder.onnx", pictures)
        assert close(found[0], latents) and close(found[1], moments)
    for file in folder.glob("*.onnx"):
        onnx.checker.check_model(str(file), full_check=True)


def readme() -> Callable[..., np.ndarray]:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    found: Callable[..., np.ndarray] = names["sample"]
    return found


def shares(maps: np.ndarray, classes: int) -> np.ndarray:
    """The share of each class in cells of two pixels a side."""
    one = np.eye(classes, dtype=np.float32)[maps].transpose(0, 3, 1, 2)
    return one.reshape(len(maps), classes, 8, 2, 8, 2).mean((3, 5))


@pytest.mark.parametrize("name", MODELS)
def test_the_loop_of_the_readme_draws_the_runs_own_pictures(exported: Callable[[str], Path], name: str) -> None:
    folder, own, inputs = exported(name), pipeline(name), cast(Any, None)
    given: dict[str, dict[str, np.ndarray]] = {}
    options: dict[str, Any] = {"seed": 5, "images": 2}
    if name == "text":
        import sentencepiece

        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer_text"))
        rows = [[pieces.bos_id(), *pieces.encode(text), pieces.eos_id()] for text in CAPTIONS[:2]]
        tokens = np.array([row + [pieces.pad_id()] * (8 - len(row)) for row in rows])
        mask = np.arange(8) < np.array([[len(row)] for row in rows])
        given = {
            "text": {"tokens": tokens, "mask": mask, "crossattn_mask": mask},
            "class_label": {"input": np.array([1, 1])},
        }
        options |= {"prompts": CAPTIONS[:2]}
        inputs = {"class_label": 1}
    if name == "maps":
        maps = np.random.default_rng(0).integers(0, 3, (2, 16, 16))
        given = {"semantic_map": {"input": shares(maps, 3)}}
        inputs = [{"segmentation": each} for each in maps]
    if inputs is not None:
        options |= {"inputs": inputs}
    with own.begin(**options) as begun:
        first = begun.x / np.hypot(begun.alpha[0], begun.sigma[0])
    found = readme()(str(folder), given, first.double().numpy(), SCALES[name])
    wanted = np.stack([each.image for each in own.sample(**options)])
    assert abs(np.rint((found.clip(-1, 1) + 1) * 127.5) - wanted).max() <= 1 and wanted.std() > 5


def test_conditioners_show_an_example_and_say_what_stays_outside(exported: Callable[[str], Path]) -> None:
    rows = about(exported("text"))["conditioners"]
    text = rows["text"]
    tokens = pipeline("text").model.conditioners["text"].tokenizer("a red circle")  # type: ignore[operator, union-attr]
    assert text["example"]["of"] == {"caption": "a red circle"}
    assert tuple(text["example"]["tokens"]) == tokens.ids and sum(text["example"]["mask"]) == tokens.used
    assert text["network"] == "conditioner_text" and text["shape"] == ["crossattn", 8, 8]
    assert text["outside"] == "tokens, mask of its network is to be made of caption outside"
    nulls = np.load(exported("text") / "nulls.npz")
    table = (weights("text").model or {})["conditioners.class_label.embedding.weight"]
    assert np.array_equal(nulls["class_label/crossattn"], table[3:].numpy())
    assert rows["class_label"]["null"] == {"crossattn": "nulls.npz: class_label/crossattn"}


def test_the_file_tells_the_numbers_of_the_schedule(exported: Callable[[str], Path]) -> None:
    """Of a table and of a continuous schedule: x0 comes back from an exact network at every time."""
    for name, count in (("text", 1000), ("maps", 1000)):
        said = about(exported(name))
        assert len(said["times"]["t"]) == 5 and len(said["table"]["t"]) == count
        table = {key: np.array(each) for key, each in said["table"].items()}
        assert (np.diff(table["sigma"] / np.maximum(table["alpha"], 1e-300)) > 0).all()
        variance = table["alpha"] ** 2 + table["sigma"] ** 2
        assert abs(variance - 1).max() < 1e-6 if name == "text" else variance.min() < 0.51
    latents = about(exported("text"))["latents"]
    assert latents["mean"] == [0.0, 0.0, 0.0] and latents["std"] == [4.0, 4.0, 4.0] and latents["stride"] == [2, 2]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_smaller_numbers_stay_in_the_file(tmp_path: Path, dtype: str) -> None:
    """They are stored as they came, and the networks are torch's with the rounded weights."""
    rounded = write.as_dtype(random_weights(TINY), dtype)
    put(rounded, tmp_path / dtype)
    own = assemble(rounded, Catalog.discover())
    x, level = torch.randn(2, 2, 8, 8), torch.tensor([10.0, 900.0])
    with torch.no_grad():
        wanted = own.model.denoiser(x, level, Cond())  # type: ignore[operator]
    assert close(run(tmp_path / dtype / "denoiser.onnx", x, level)[0], wanted)
    stored = load_file(tmp_path / dtype / "weights.safetensors")
    assert {str(value.dtype) for name, value in stored.items() if "latent_" not in name} == {f"torch.{TYPES[dtype]}"}


def test_the_command_writes_a_folder_that_still_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exported: Callable[[str], Path]
) -> None:
    run_folder = tmp_path / "run"
    assert main(["convert", str(exported("unconditional")), str(run_folder), "--to", "ldm"]) == 0
    assert main(["convert", str(run_folder), str(tmp_path / "again"), "--to", "onnx"]) == 0
    said = capsys.readouterr().out
    assert "a model of ldm-core" in said
    for name in ("denoiser.onnx", "encoder.onnx", "decoder.onnx", "weights.safetensors"):
        assert (tmp_path / "again" / name).stat().st_size > 1000
    again = Pipeline.load(str(tmp_path / "again")).sample(images=1, seed=5)[0].image
    assert np.array_equal(again, pipeline("unconditional").sample(images=1, seed=5)[0].image)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "BOUND", -1.0)
    with pytest.raises(ConfigError, match=r"results of the denoiser differ from torch's by .* and .*bound -1"):
        put(random_weights(TINY), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_refusals_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"a\.onnx: a model for ONNX is a folder"):
        put(weights("unconditional"), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match=r"adapters \(deep_cache\) are not exported; take them off"):
        put(random_weights({**MODELS["unconditional"], "adapters": {"cache": {"use": "deep_cache"}}}), tmp_path / "a")
    with pytest.raises(ConfigError, match="give the first stage as `first_stage`"):
        put(random_weights(MODELS["unconditional"], "denoiser"), tmp_path / "a")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"the package onnxruntime does not import .*pip install onnx onnxruntime"):
        library.packages()


class _Fixed(nn.Module):
    """A network that a trace follows for one size alone: the number of cells becomes a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x[0, 0].numel())


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x


class _Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(x.tolist())).to(x) + torch.special.bessel_j0(x)


def of(module: nn.Module) -> network.Exported:
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    return network.Exported(module, {"x": torch.randn(2, 1, 4, 4)}, ["y"], {}, axes)


@pytest.mark.parametrize("module", [_Fixed(), _Square()])
def test_a_network_of_one_size_says_so(module: nn.Module) -> None:
    """By a trace that froze a size, and by a module that takes no other."""
    made = graph.graph_of("net", of(module), WeightsFile({}, {}), {})
    assert graph.fixed_axes(made, of(module)) == ["x.height=4", "x.width=4"]
    session = onnxruntime.InferenceSession(graph.bytes_of(made))
    x = torch.randn(5, 1, 4, 4)
    assert close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), module(x))


def test_a_network_beyond_onnx_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"onnx: torch cannot export the net: \w+: .*bessel_j0"):
        graph.graph_of("net", of(_Sorted()), WeightsFile({}, {}), {})
