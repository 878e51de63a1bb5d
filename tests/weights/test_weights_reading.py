"""Foreign weights: asked of the codecs, refused where unsure, and the same model once they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from foreign_models import KL, plain_model, served, tiny, write
from safetensors.torch import save_file

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.contracts.codec import Codec, ModelWeights, Recognised, Source, Written, overlay
from ldm_core.errors import CheckpointError, ConfigError, LDMError
from ldm_core.recipe import artifacts
from ldm_core.sampling import load
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing.suites.codec import random_weights
from ldm_core.weights import codecs, complete, open
from ldm_core.weights.open import Wanted
from ldm_core.weights.source import open_source


@attrs.frozen(kw_only=True)
class FakeConfig:
    """Options of the made-up formats."""

    ema: bool = True


class Fake(Codec):
    """A format that knows every file with a tensor of its own name."""

    mark = "fake"
    found = Recognised(what="a fake", holds="first_stage")
    weights = ModelWeights(recipe={}, first_stage={})

    def __init__(self, config: FakeConfig, site: Any) -> None:
        self.config = config

    def recognise(self, source: Source) -> Recognised | None:
        if source.folder or self.mark not in source.tensors().infos:
            return None
        return self.found

    def read(self, source: Source) -> ModelWeights:
        return self.weights

    def write(self, weights: ModelWeights, name: str) -> Written:
        raise ConfigError("a fake is not written")


class Double(Fake):
    """Another one that knows the same files."""


class Faulty(Fake):
    """A codec with a fault of its own."""

    def recognise(self, source: Source) -> Recognised | None:
        raise ZeroDivisionError("by nothing")


class Open(Fake):
    """A format that does not say everything."""

    mark = "open"
    found = Recognised(what="half known", holds="model", unknown={"denoiser.heads": (4, 8), "image_size": (256,)})


class Torn(Fake):
    """A format whose files lack something."""

    mark = "torn"
    weights = ModelWeights(recipe={"image_size": 32}, first_stage={}, missing=("a.b", "a.c"), unexpected=("z",))


class Stumbling(Fake):
    """A codec that trusts what it reads."""

    mark = "stumbling"

    def read(self, source: Source) -> ModelWeights:
        raise KeyError("encoder.conv_in.weight")


def catalog_of(*kinds: type[Fake]) -> Catalog:
    class Plugin:
        @hookimpl
        def ldm_components(self) -> list[Component]:
            return [
                Component(kind="codec", name=k.__name__.lower(), config=FakeConfig, summary="made up",
                          factory=f"{__name__}:{k.__name__}")
                for k in kinds
            ]  # fmt: skip

    catalog = Catalog.discover()
    catalog.register(Plugin(), "fakes", "fakes")
    return catalog


def file_with(folder: Path, *names: str) -> Source:
    path = folder / "some.safetensors"
    save_file({name: torch.zeros(2, 3) for name in names}, str(path))
    return open_source(str(path))


def test_none_knows_it(tmp_path: Path) -> None:
    source = file_with(tmp_path, "tower.a", "tower.b", "gate")
    with pytest.raises(CheckpointError) as caught:
        codecs.recognise(source, Catalog.discover(limit=[]))
    said = str(caught.value)
    assert "some.safetensors: no codec knows these weights" in said
    assert "3 tensors (safetensors): tower.* (2), gate" in said or "3 tensors (safetensors): gate, tower.* (2)" in said
    assert "codecs: ldm; others come with: pip install ldm-plugin-compvis ldm-plugin-diffusers" in said
    with pytest.raises(CheckpointError, match=r"is nothing that codec 'ldm' knows.*leave `codec` out"):
        codecs.recognise(source, catalog_of(Fake), "ldm")


def test_several_know_it(tmp_path: Path) -> None:
    source, catalog = file_with(tmp_path, "fake"), catalog_of(Fake, Double)
    with pytest.raises(
        ConfigError, match=r"several codecs know it: double \(a fake\), fake \(a fake\).*`codec=double`"
    ):
        codecs.recognise(source, catalog)
    assert codecs.recognise(source, catalog, "fake")[0] == "fake"


def test_a_codec_that_fails_is_named(tmp_path: Path) -> None:
    source = file_with(tmp_path, "fake")
    name, _, found = codecs.recognise(source, catalog_of(Fake, Faulty))
    assert name == "fake"
    assert [n for n in found.notes if "faulty" in n] == ["codec 'faulty' failed on it: ZeroDivisionError: by nothing"]
    with pytest.raises(CheckpointError, match="faulty: ZeroDivisionError: by nothing"):
        codecs.recognise(file_with(tmp_path, "other"), catalog_of(Faulty))
    with pytest.raises(CheckpointError, match=r"codec 'stumbling' could not read it \(KeyError: 'encoder"):
        codecs.read(file_with(tmp_path, "stumbling"), catalog_of(Stumbling))


def test_what_is_unknown_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        codecs.read(file_with(tmp_path, "open"), catalog_of(Open))
    first, second = caught.value.problems
    assert first.endswith("some.safetensors: nothing says denoiser.heads; add denoiser.heads=4 (one of: 4, 8)")
    assert second.endswith("some.safetensors: nothing says image_size; add image_size=256")


def test_names_that_lack_or_are_left_over(tmp_path: Path) -> None:
    source, catalog = file_with(tmp_path, "torn"), catalog_of(Torn)
    with pytest.raises(CheckpointError, match=r"2 missing \(e.g. a.b, a.c\); 1 unexpected \(e.g. z\)"):
        codecs.read(source, catalog)
    assert codecs.read(source, catalog, partial=True).notes == (
        "taken in part: 2 missing (e.g. a.b, a.c)",
        "taken in part: 1 unexpected (e.g. z)",
    )


def test_options_of_codecs(tmp_path: Path) -> None:
    catalog = catalog_of(Fake)
    _, made, _ = codecs.recognise(file_with(tmp_path, "fake"), catalog, options={"ema": False})
    assert isinstance(made, Fake) and made.config == FakeConfig(ema=False)
    wanted = Wanted.of(["codec.emma=false"])
    with pytest.raises(ConfigError, match=r"codec.emma: codec 'fake' has no such option \(it has: ema\)"):
        open.open_weights(str(tmp_path / "some.safetensors"), catalog, wanted)
    with pytest.raises(ConfigError, match="give the name of the codec as `codec`"):
        Wanted.of(["codec=fake"])


def test_given_values_lie_on_top() -> None:
    plain = {
        "denoiser": {"use": "unet", "heads": 1},
        "conditioners": [{"use": "clip", "name": "text"}],
        "guidance": "cfg",
    }
    given = {"denoiser": {"heads": 8}, "conditioners": {"text": {"width": 3}}, "guidance": {"scale": 2.0}}
    assert overlay(plain, given) == {
        "denoiser": {"use": "unet", "heads": 8},
        "conditioners": [{"use": "clip", "name": "text", "width": 3}],
        "guidance": {"use": "cfg", "scale": 2.0},
    }
    assert overlay(plain, {"denoiser": {"use": "dit"}})["denoiser"] == {"use": "dit"}
    assert overlay({"channel_mult": [1, 2]}, {"channel_mult": {}}) == {"channel_mult": {}}, "no list of parts"
    assert plain["denoiser"] == {"use": "unet", "heads": 1}


def pictures(pipeline: Pipeline) -> np.ndarray:
    made = pipeline.with_settings({"sampler": "ddpm"}).sample(images=2, steps=3, seed=5, inputs={"class_label": 1})
    return np.stack([each.image for each in made])


def same_recipe_sampling(pipeline: Pipeline) -> Pipeline:
    return pipeline.with_settings({"guidance": "none", "sampler": "ddpm", "time_grid": "trailing"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tiny(), "ldm", tmp_path_factory.mktemp("native") / "run")


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tiny(), "compvis", tmp_path_factory.mktemp("foreign") / "model.ckpt")


GIVEN = {"image_size": 16}


def test_the_same_pictures_from_every_format(run: str, ckpt: str) -> None:
    native = ldm_core.load(run)
    foreign = same_recipe_sampling(ldm_core.load(ckpt, wanted=Wanted(given=GIVEN)))
    assert np.array_equal(pictures(native), pictures(foreign))
    catalog = Catalog.discover()
    again = Pipeline.of(load.assemble(open.open_weights(run, catalog, Wanted(codec="ldm")).weights, catalog))
    assert np.array_equal(pictures(native), pictures(again))
    sha = open_source(ckpt).sha256()
    metadata = foreign.sample(images=1, steps=1, inputs={"class_label": 0})[0].metadata
    assert metadata["weights_sha256"] == sha and len(sha) == 64


def test_what_sampling_starts_from_where_nothing_is_said(ckpt: str) -> None:
    recipe = ldm_core.load(ckpt, wanted=Wanted(given=GIVEN)).recipe
    assert (recipe.sampler.use, recipe.guidance.use) == ("ddim", "cfg")
    assert recipe.conditioners[0].config.classes == 3 and recipe.image_size == (16, 16)


def test_making_a_pipeline_draws_nothing(ckpt: str) -> None:
    state = torch.get_rng_state()
    ldm_core.load(ckpt, wanted=Wanted(given=GIVEN))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("part", ["first_stage", "denoiser", "conditioner"])
def test_a_part_by_itself(part: str) -> None:
    catalog, weights, whole = Catalog.discover(), tiny(part), tiny()
    built = complete.build_part(weights, catalog)
    assert not any(p.requires_grad for p in built.parameters()) and not built.training
    prefix = {"first_stage": "", "denoiser": "denoiser.", "conditioner": "conditioners.class_label."}[part]
    expected = whole.first_stage if part == "first_stage" else whole.model
    assert expected is not None
    state = built.state_dict()
    assert state and all(torch.equal(value, expected[prefix + name]) for name, value in state.items())
    with pytest.raises(CheckpointError, match=r"alone|without a first stage"):
        load.assemble(weights, catalog)


def test_weights_must_be_those_of_the_recipe() -> None:
    catalog, weights = Catalog.discover(), tiny("first_stage")
    wider = attrs.evolve(weights, recipe=overlay(weights.recipe, {"first_stage": {"channels": 64}}))
    with pytest.raises(CheckpointError, match=r"first stage: these weights are of another architecture: the recipe"):
        complete.build_part(wider, catalog)  # twice as wide: nothing of that size is made
    narrow = attrs.evolve(weights, recipe=overlay(weights.recipe, {"first_stage": {"z_channels": 3}}))
    with pytest.raises(CheckpointError, match=r"first stage: these weights are of another architecture: \d+ of"):
        complete.build_part(narrow, catalog)
    assert weights.first_stage is not None
    short = attrs.evolve(weights, first_stage=dict(list(weights.first_stage.items())[:-1]))
    with pytest.raises(CheckpointError, match="1 missing"):
        complete.build_part(short, catalog)


def test_a_denoiser_with_a_first_stage_from_elsewhere(tmp_path: Path, run: str) -> None:
    alone = attrs.evolve(tiny(), first_stage=None, latent=tiny("denoiser").latent)
    folder = tmp_path / "alone"
    from ldm_core.builtin.ldm_format.codec import LdmCodec
    from ldm_core.builtin.ldm_format.config import LdmCodecConfig
    from ldm_core.testing.sources import put

    made = LdmCodec(LdmCodecConfig(alone=True), open_source(run)).write(alone, "alone")  # type: ignore[arg-type]
    put(made.files, tmp_path, "alone")
    catalog = Catalog.discover()
    with pytest.raises(CheckpointError, match="a denoiser without a first stage; give the first stage with `first_st"):
        load.assemble(open.open_weights(str(folder), catalog, Wanted(codec="ldm")).weights, catalog)
    stage = write(tiny("first_stage"), "compvis", tmp_path / "stage.safetensors")
    joined = Pipeline.load(str(folder), catalog=catalog, wanted=Wanted(first_stage=stage, given=GIVEN))
    assert np.array_equal(pictures(joined), pictures(ldm_core.load(run)))
    other = random_weights(plain_model(first_stage={**KL, "z_channels": 3}), "first_stage")
    wrong = write(other, "compvis", tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match=r"latents of 3 channels, and the denoiser of .* works on 4"):
        open.open_weights(str(folder), catalog, Wanted(first_stage=wrong))
    with pytest.raises(ConfigError, match="has a first stage of its own; leave it out"):
        open.open_weights(run, catalog, Wanted(first_stage=stage))


def test_from_a_web_server_with_a_hash(ckpt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache"))
    sha = open_source(ckpt).sha256()
    with served(Path(ckpt).parent) as address:
        url = f"{address}/model.ckpt"
        far = open.open_weights(url, Catalog.discover(), Wanted(sha256=sha, given=GIVEN))
        near = open.open_weights(ckpt, Catalog.discover(), Wanted(given=GIVEN))
        assert far.sha256 == near.sha256 == sha
        assert _equal(far.weights.model, near.weights.model) and _equal(
            far.weights.first_stage, near.weights.first_stage
        )
        with pytest.raises(CheckpointError, match="has the SHA-256"):
            ldm_core.load(url, wanted=Wanted(sha256="0" * 64, given=GIVEN))


def _equal(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    return bool(a) and bool(b) and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)  # type: ignore[union-attr,index]


def test_what_is_ours_and_what_is_not(run: str, ckpt: str, tmp_path: Path) -> None:
    assert artifacts.is_native(run) and artifacts.is_native(f"{run}/model.safetensors")
    assert not artifacts.is_native(ckpt)
    assert artifacts.is_native(str(tmp_path / "nowhere")) and artifacts.is_native(str(tmp_path))
    table = tmp_path / "table.safetensors"
    save_file({"a": torch.zeros(1)}, str(table))
    assert not artifacts.is_native(str(table)) and not artifacts.is_native(str(tmp_path))


def test_a_hash_of_our_own_files_is_compared(run: str) -> None:
    with pytest.raises(LDMError, match="SHA-256"):
        ldm_core.load(f"{run}/model.safetensors", wanted=Wanted(sha256="0" * 64))


OURS = {"format": 1, "kind": "model", "use": "unet", "config": {}, "versions": {}}


@pytest.mark.parametrize(
    "metadata",
    [
        5,
        [],
        {"ldm_core": 5},
        {"ldm_core": "x"},
        {"ldm_core": "[]"},
        {"ldm_core": "[" * 100_000},
        *({"ldm_core": json.dumps({**OURS, key: 3})} for key in ("kind", "use", "config", "versions")),
        {"ldm_core": json.dumps({**OURS, "format": "new"})},
    ],
    ids=lambda value: str(value)[:60],
)
def test_headers_of_our_own_that_do_not_read(metadata: Any, tmp_path: Path) -> None:
    header = {"__metadata__": metadata, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    for name in ("first_stage.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    for place in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"safetensors: .*(metadata|format new)"):
            ldm_core.load(str(place))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("lora_unet_mid.lora_down.weight", "lora_unet_mid.lora_up.weight"),
            "which are a LoRA, an addition to a model",
        ),
        (("unet.to_q.lora_A.weight",), "which are a LoRA, an addition to a model"),
        (
            ("emb_params",),
            "a textual inversion, a learned word for a model; give the model; it holds 1 tensor ",
        ),
        (("w", "v"), "no codec knows these weights; it holds 2 tensors "),
    ],
)
def test_what_is_an_addition_to_a_model_is_named(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as error:
        codecs.recognise(open_source(str(tmp_path / "x.safetensors")), Catalog.discover())
    assert said in str(error.value)
