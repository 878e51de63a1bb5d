"""What CompVis' own programs ask of a file and the configuration beside it, and what they say that shapes do not."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import yaml
from compvis_files import OneFile, Shapes, beta_buffers, fill, saved, shapes_file
from ldm_plugin_compvis.codec import CompVisCodec
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout import clip as clip_keys
from ldm_plugin_compvis.layout import expected
from ldm_plugin_compvis.layout.state_dict import BUFFERS
from test_compvis_writing import KINDS, catalog, through, weights_of

from ldm_core.contracts import CondSpec
from ldm_core.contracts.codec import Recognised
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.testing.suites.codec import put
from ldm_core.weights.complete import recipe_of
from ldm_core.weights.open import Wanted, open_weights

UNET = {"channels": 32, "channel_mult": (1, 2), "res_blocks": 1, "attention": (2,), "heads": 4}
KL = {"channels": 32, "channel_mult": (1, 1), "res_blocks": 1, "attention": (), "z_channels": 4}
SAID = ("denoiser.heads=4", "parameterization=eps", "image_size=16", "codec.scale_factor=0.18215")


def params_of(kind: str, **options: Any) -> tuple[str, Mapping[str, Any], set[str], str]:
    """Of a small model of `kind` as it is written: the class, its parameters, the names of the file, the notes."""
    written = CompVisCodec(CompVisConfig(**options)).write(weights_of(kind), "m.ckpt")
    model = yaml.safe_load(written.beside["m.yaml"]())["model"]
    names = set(torch.load(io.BytesIO(written.files[""]()), weights_only=True)["state_dict"])
    return model["target"], model["params"], names, "\n".join(written.notes)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_configuration_instantiates_in_the_original_classes(kind: str) -> None:
    """Its constructor asserts that a stage that is no conditioner of its own is not trainable, and its buffers are the
    tables of the schedule alone."""
    target, params, names, notes = params_of(kind)
    stage = params["cond_stage_config"]
    if isinstance(stage, str):
        assert stage.startswith("__is_") and not params.get("cond_stage_trainable")
    inpainting = kind == "Stable Diffusion 1, inpainting"
    assert target.endswith(".LatentInpaintDiffusion" if inpainting else ".LatentDiffusion")
    own = {"finetune_keys", "concat_keys", "masked_image_key"}  # which the plain class does not take
    assert own <= params.keys() if inpainting else not own & params.keys()
    if inpainting:
        assert params["finetune_keys"] is None and params["masked_image_key"] in params["concat_keys"]
        assert params["conditioning_key"] == "hybrid" and params["unet_config"]["params"]["in_channels"] == 3 + 3 + 1
    assert not {"scale_factor", "scale_by_std"} & (names | {k for k in params if k == "scale_by_std"})
    assert params["scale_factor"] > 0 and set(BUFFERS) <= names and params["use_ema"] is False
    assert ("strict=False" in notes) == (kind == "Stable Diffusion 2")


@pytest.mark.parametrize("kind", ["churches", "text", "vectors", "unconditional", "Stable Diffusion 1"])
def test_tensors_that_the_original_has_under_a_switch(kind: str, tmp_path: Path) -> None:
    """scale_by_std makes the factor a tensor, use_ema the averages; both stand in the configuration too."""
    _, params, names, _ = params_of(kind, scale_by_std=True, write_ema=True)
    assert params["scale_by_std"] is True and "scale_factor" in names
    assert params["use_ema"] is True and {"model_ema.decay", "model_ema.num_updates"} <= names
    weights = weights_of(kind)
    for options in ({}, {"scale_by_std": True}):
        back = through(weights, tmp_path, f"m{len(options)}.safetensors", **options)
        assert weights.first_stage is not None and back.first_stage is not None
        assert torch.equal(weights.first_stage["latent_std"], back.first_stage["latent_std"])


@pytest.mark.parametrize(
    ("beside", "kept"),
    [
        ({"scale_by_std": True}, True),
        ({"scale_by_std": False, "scale_factor": 0.5}, False),
        ({"scale_factor": 0.5}, False),
        ({}, False),
        (None, True),
    ],
)
def test_a_tensor_of_the_original_is_written_again(beside: dict[str, Any] | None, kept: bool) -> None:
    """Only scale_by_std makes the factor a tensor there; a file alone that has one was trained so."""
    file = shapes_file({name: info.shape for name, info in TEXT.infos.items()}, {**beta_buffers(0.00085, 0.012)})
    small = {**file.small, "scale_factor": torch.tensor(0.5)}
    shapes = {name: info.shape for name, info in TEXT.infos.items() if name not in small}
    configs = {} if beside is None else {"model.yaml": {"model": {"params": {"cond_stage_key": "caption", **beside}}}}
    given = Wanted.of([*SAID[:3], "conditioners=text"]).given
    tensors = {**fill(shapes), **small}
    weights = CompVisCodec(CompVisConfig()).read(OneFile(shapes_file({}, tensors), given, configs))
    assert bool(weights.kept) == kept and weights.first_stage is not None
    assert torch.equal(weights.first_stage["latent_std"], torch.full((4,), 2.0))
    recipe = recipe_of(weights, catalog()).plain()
    written = CompVisCodec(CompVisConfig()).write(attrs.evolve(weights, recipe=recipe), "m.ckpt")
    params = yaml.safe_load(written.beside["m.yaml"]())["model"]["params"]
    state = torch.load(io.BytesIO(written.files[""]()), weights_only=True)["state_dict"]
    assert ("scale_factor" in state, params.get("scale_by_std", False)) == (kept, kept)
    assert params["scale_factor"] == 0.5


@pytest.mark.parametrize(
    ("layers", "skip", "layer", "last"),
    [(23, 0, "penultimate", True), (24, 1, "penultimate", False), (24, 0, "last", False), (4, 1, "penultimate", False),
     (12, 0, "last", False)],
)  # fmt: skip
def test_the_layer_that_is_written(layers: int, skip: int, layer: str, last: bool) -> None:
    weights = weights_of("Stable Diffusion 2")
    rows = [{**weights.recipe["conditioners"][0], "layers": layers, "skip": skip}]
    assert weights.model is not None
    own = {k: v for k, v in weights.model.items() if not k.startswith("conditioners.")}
    text = {f"conditioners.text.{k}": torch.zeros(s) for k, s in expected.of_conditioner("clip_text", rows[0]).items()}
    weights = attrs.evolve(weights, recipe={**weights.recipe, "conditioners": rows}, model={**own, **text})
    written = CompVisCodec(CompVisConfig()).write(weights, "m.ckpt")
    params = yaml.safe_load(written.beside["m.yaml"]())["model"]["params"]
    assert params["cond_stage_config"]["params"]["layer"] == layer
    assert any("its last layer" in note for note in written.notes) == last
    rows[0]["skip"] = 2
    with pytest.raises(ConfigError, match="1 or none of this encoder's last layers"):
        CompVisCodec(CompVisConfig()).write(attrs.evolve(weights, recipe={**weights.recipe, "conditioners": rows}), "m")


# ----------------------------------------------------------------------------------------------- files without settings


def model_file(text: Mapping[str, tuple[int, ...]], crossattn: int) -> Shapes:
    unet = expected.of_unet(UNET, 4, CondSpec(crossattn=crossattn))
    shapes = {
        **{f"model.diffusion_model.{k}": v for k, v in unet.items()},
        **{f"first_stage_model.{k}": v for k, v in expected.of_first_stage("kl_ae", KL, 3).items()},
        **{f"cond_stage_model.{k}": v for k, v in text.items()},
    }
    return shapes_file(shapes, beta_buffers(0.00085, 0.012))


def tokens(vocab: int, length: int) -> dict[str, tuple[int, ...]]:
    row = {
        "vocab_size": vocab,
        "width": 32,
        "layers": 1,
        "length": length,
        "heads": 8,
        "head_width": 64,
        "logits": True,
    }
    return expected.of_conditioner("text", row)


def found(file: Shapes, *settings: str, **beside: Any) -> Recognised:
    wanted = Wanted.of(settings)
    codec = CompVisCodec(CompVisConfig(**wanted.options))
    out = codec.recognise(OneFile(file, wanted.given, {"model.yaml": beside} if beside else {}))
    assert out is not None
    return out


TEXT = model_file(tokens(400, 77), 32)


def test_a_text_model_of_another_vocabulary_is_asked_for() -> None:
    """A setting of a conditioner is no word on which one it is."""
    for settings in (SAID, (*SAID, "conditioners.text.tokenizer=v.txt"), (*SAID, "conditioners.text.key=words")):
        assert found(TEXT, *settings).unknown == {"conditioners": ("text", "bbox_layout")}
    assert found(TEXT, *SAID, "conditioners=class_label").unknown == {"conditioners": ("text", "bbox_layout")}


@pytest.mark.parametrize(
    ("settings", "use", "more"),
    [
        (["conditioners=text"], "text", {"length": 77}),
        (["conditioners=text", "conditioners.text.tokenizer=v.txt"], "text", {"tokenizer": "v.txt"}),
        (["conditioners.text.tokenizer=v.txt", "conditioners=text"], "text", {"tokenizer": "v.txt"}),
        (["conditioners=[text]"], "text", {"length": 77}),
        (["conditioners=[{use: text, key: words}]"], "text", {"key": "words", "layers": 1}),
        (["conditioners={use: text, key: words}"], "text", {"key": "words", "layers": 1}),
        (["conditioners.text.use=text"], "text", {"length": 77}),
        (["conditioners=bbox_layout"], "bbox_layout", {"objects": 25, "encode_crop": True}),
    ],
)
def test_the_printed_advice_is_taken_literally(settings: list[str], use: str, more: Mapping[str, Any]) -> None:
    out = found(TEXT, *SAID, *settings)
    assert not out.unknown
    (row,) = out.recipe["conditioners"]
    assert row["use"] == use and row["vocab_size"] == 400 and row["width"] == 32
    assert {key: row[key] for key in more} == more and ("length" in row) == (use == "text")


@pytest.mark.parametrize(
    "spelling",
    [["conditioners=text"], ["conditioners=[text]"], ["conditioners={use: text}"], ["conditioners.text.use=text"]],
)
@pytest.mark.parametrize("more", [[], ["conditioners.text.key=words"]])
def test_a_file_is_read_with_the_advice(spelling: list[str], more: list[str], text_file: Path) -> None:
    """The whole way to a model, whose conditioner has the sizes that the file shows."""
    wanted = Wanted.of([*SAID, *spelling, *more])
    opened = open_weights(str(text_file), catalog(), wanted)
    (row,) = recipe_of(opened.weights, catalog()).conditioners
    assert (row.use, row.config.vocab_size, row.config.width, row.config.length) == ("text", 400, 32, 77)
    assert row.config.key == ("words" if more else "caption")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model as its programs save it, alone."""
    shapes = {name: info.shape for name, info in TEXT.infos.items() if name not in TEXT.small}
    return saved(tmp_path_factory.mktemp("text") / "model.ckpt", {**fill(shapes), **TEXT.small})


def test_lengths_that_no_layout_has_are_captions() -> None:
    assert not found(model_file(tokens(400, 76), 32), *SAID).unknown  # 3 a box, and 2 of the crop or none
    assert not found(model_file(tokens(30522, 77), 32), *SAID).unknown


def open_clip(layers: int) -> Shapes:
    fields = {"vocab_size": 16, "width": 64, "inner": 128, "length": 8, "layers": layers}
    ours = {k: torch.empty(s, device="meta") for k, s in clip_keys.expected(fields).items()}
    stored = clip_keys.to_open(ours, torch.cat)
    return model_file({k: tuple(v.shape) for k, v in stored.items()}, 64)


def beside(target: str, **params: Any) -> dict[str, Any]:
    """A configuration whose conditioner is `target` with `params`."""
    stage = {"target": f"ldm.modules.encoders.modules.{target}", **({"params": params} if params else {})}
    return {"params": {"cond_stage_config": stage}}


@pytest.mark.parametrize(
    ("layers", "said", "expect"),
    [
        (4, {"layer": "penultimate"}, (4, 1)),
        (4, {"layer": "last"}, (4, 0)),
        (4, {"freeze": True}, (4, 0)),
        (12, {"layer": "penultimate", "freeze": True}, (12, 1)),
        (24, {"layer": "penultimate"}, (23, 0)),
        (24, {"layer": "last"}, (24, 0)),
        (24, {}, (24, 0)),
        (32, {"layer": "penultimate"}, (32, 1)),
        (1, {"layer": "last"}, (1, 0)),
    ],
)
def test_the_layer_of_openclip_is_read(layers: int, said: Mapping[str, Any], expect: tuple[int, int]) -> None:
    """The original runs all blocks but the last `layer_idx` ones, whatever their number."""
    out = found(open_clip(layers), *SAID, model=beside("FrozenOpenCLIPEmbedder", **said))
    (row,) = out.recipe["conditioners"]
    assert (row["layers"], row["skip"]) == expect and not out.unknown
    assert row["layers"] - row["skip"] == layers - (said.get("layer") == "penultimate")


def test_the_layer_of_openclip_is_asked_for_without_a_configuration() -> None:
    for layers, expect in ((24, None), (23, None), (4, (1, 0)), (40, (1, 0))):
        unknown = found(open_clip(layers), *SAID).unknown
        assert unknown == ({"conditioners.text.skip": expect} if expect else {})
    out = found(open_clip(4), *SAID, "conditioners.text.skip=1")
    assert not out.unknown and out.recipe["conditioners"][0]["skip"] == 1


@pytest.mark.parametrize("layer", ["hidden", "pooled", "x" * 500])
def test_a_layer_that_cannot_be_given_is_an_error(layer: str) -> None:
    with pytest.raises(CheckpointError, match="takes layer '") as raised:
        found(open_clip(4), *SAID, model=beside("FrozenOpenCLIPEmbedder", layer=layer))
    assert len(str(raised.value)) < 250


def test_vectors_of_other_sizes_say_how_they_are_taken() -> None:
    """The released retrieval model is told by its shapes; of others, a configuration that names the condition."""
    file = model_file({}, 48)
    out = found(file, *SAID)
    assert "normalize" not in out.recipe["conditioners"][0]
    assert any("conditioners.embedding.normalize=true" in note for note in out.notes)
    out = found(file, *SAID, model={"params": {"cond_stage_key": "nix"}})
    assert out.recipe["conditioners"][0]["normalize"] is True and not any("normalize" in n for n in out.notes)
    out = found(file, *SAID, "conditioners.embedding.normalize=false", model={"params": {"cond_stage_key": "nix"}})
    assert out.recipe["conditioners"][0]["normalize"] is False


def test_a_released_name_reads_a_written_file(tmp_path: Path) -> None:
    """What is written is read without the configuration beside it, by what stands in the file itself."""
    weights = weights_of("text")
    path = put(CompVisCodec(CompVisConfig()).write(weights, "m.ckpt").files, tmp_path, "m.ckpt")
    assert not list(tmp_path.glob("*.yaml"))
    back = through(weights, tmp_path, path.name)
    assert back.first_stage is not None and back.first_stage["latent_std"][0] == 4.0
