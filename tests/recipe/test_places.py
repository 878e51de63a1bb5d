"""The recipe in a weights file names no place: which fields are places, what is left of a recipe, who is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from header_files import PLAIN, VOCABULARY, Body, copy_run, read_file, write_file, write_run

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.cli import main
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts, places
from ldm_core.recipe.description import resolve_described
from ldm_core.recipe.keys import SECTIONS
from ldm_core.recipe.resolve import resolve
from ldm_core.testing.config_class import check_config_class

for name in ("bert_text", "vq_ae", "ddim", "cfg"):
    pytest.importorskip(f"ldm_plugin_{name}")

OUTSIDE = [
    "/etc/passwd", "/dev/zero", "../x", "http://127.0.0.1:9/x", "s3://b/k", "simplecache::http://127.0.0.1:9/x",
    "file:///etc/passwd", "github://a:b@main/x", "/etc/a\0b", "/" + "a" * 5000,
]  # fmt: skip


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="torch is not installed")
    folder = tmp_path_factory.mktemp("run") / "run"
    write_run(folder)
    return folder


# ------------------------------------------------------------------------------------------------- which are places


def test_every_component_and_section_says_which_fields_are_places(catalog: Catalog) -> None:
    configs = [entry.component.config for entry in catalog]
    assert {c.__name__: found for c in (*configs, *SECTIONS.values()) if (found := places.undeclared(c))} == {}
    known = {f.name for c in SECTIONS.values() for f in attrs.fields(c) if places.is_place(c, f)}
    assert known == {
        "cache", "decoder", "deepspeed", "deepspeed_file", "endpoint_url", "init_from", "latents", "preview_decoder",
        "profile",
    }  # fmt: skip


@attrs.frozen(kw_only=True)
class _Inner:
    vocab_file: str = ""
    width: int = 4


@attrs.frozen(kw_only=True)
class _Config:
    width: int = 4
    weights: str = ""
    checkpoint_path: str | None = None
    urls: tuple[str, ...] = ()
    vocab_weights: float = 1.0
    source: str = attrs.field(default="", metadata={"place": False})
    origin: str = attrs.field(default="", metadata={"place": True})
    inner: _Inner = attrs.field(factory=_Inner)
    inners: tuple[_Inner, ...] = ()


def test_a_plugins_field_that_is_called_like_a_place_is_one() -> None:
    found = [f.name for f in attrs.fields(_Config) if places.is_place(_Config, f)]
    assert found == ["weights", "checkpoint_path", "urls", "origin"]
    assert places.undeclared(_Config) == ["weights", "checkpoint_path", "urls"]
    with pytest.raises(AssertionError, match=r"does not say whether weights, checkpoint_path, urls names a path"):
        check_config_class(_Config)


class _Plugin:
    @hookimpl
    def ldm_components(self) -> list[Component]:
        return [Component(kind="denoiser", name="theirs", config=_Config, factory="nowhere:Nothing", summary="a test")]


def test_a_plugins_places_are_left_out_wherever_they_lie() -> None:
    catalog = Catalog()
    catalog.register(_Plugin(), "theirs")
    inner = {"vocab_file": "/etc/passwd", "width": 8}
    said = {
        "use": "theirs", "width": 8, "weights": "/x", "checkpoint_path": "/x", "urls": ["/x"], "vocab_weights": 2.0,
        "source": "caption", "origin": "/x", "inner": inner, "inners": [inner, inner],
    }  # fmt: skip
    left = {"use": "theirs", "width": 8, "vocab_weights": 2.0, "source": "caption", "inner": {"width": 8}}
    assert places.described({"denoiser": said}, catalog)["denoiser"] == {**left, "inners": [{"width": 8}] * 2}
    unknown = {"use": "not_installed", "weights": "/x", "width": 8}
    assert places.described({"denoiser": unknown}, catalog)["denoiser"] == {"use": "not_installed", "width": 8}


# ---------------------------------------------------------------------------------------------------- what is left


@pytest.mark.parametrize("place", OUTSIDE)
def test_nothing_of_a_files_recipe_is_looked_at(place: str, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place of every part and section at once; storage is not asked once, and the process stays as it was."""

    def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("storage was asked")

    for function in ("exists", "is_folder", "info", "read_bytes", "open_read", "list_files", "filesystem", "configure"):
        monkeypatch.setattr(storage, function, asked)
    before = dict(os.environ)
    engine = {"init_from": place, "deepspeed_file": place, "deepspeed": {"tensorboard": {"output_path": place}}}
    plain = {
        **PLAIN,
        "first_stage": {**PLAIN["first_stage"], "weights": place, "sha256": "ab" * 32},
        "conditioners": [{**PLAIN["conditioners"][0], "tokenizer": place, "tokenizer_sha256": "cd" * 32}],
        "dataset": {"use": "folder", "url": place},
        "observers": [{"use": "tensorboard", "folder": place}],
        "storage": {"endpoint_url": "http://127.0.0.1:9", "profile": place},
        "trainer": {**engine, "latents": place, "lr": 0.5},
        "first_stage_trainer": {**engine, "lpips": place, "fd_weights": place},
        "data": {"cache": place, "fit": "pad"},
    }
    recipe = resolve_described(plain, catalog)
    assert dict(os.environ) == before
    left = json.dumps({k: v for k, v in recipe.plain().items() if k != "dataset"})
    assert json.dumps(place)[1:-1] not in left
    assert recipe.trainer.lr == 0.5 and recipe.data.fit == "pad"
    assert recipe.conditioners[0].config.tokenizer_sha256 == "cd" * 32
    assert recipe.stage_objective.config.lpips == places.ELSEWHERE and recipe.observers == ()


@pytest.mark.parametrize("value", ["/etc/passwd", "runs/x", "x.ckpt", {"use": "a/b"}, {"use": "s3://b/first_stage"}])
def test_a_part_is_never_named_by_a_path(value: Any, catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match="first_stage: the file's recipe names a path in place of a component"):
        places.described({"first_stage": value}, catalog)


@pytest.mark.parametrize(
    "dataset",
    [
        {"use": "folder", "url": "s3://bucket/pictures"},
        [{"use": "folder", "url": "a", "weight": 0.5}, {"use": "tar", "url": "b.tar", "weight": 0.5}],
        [{"use": "folder", "url": "a"}, {"use": "shapes"}],
        {"use": "of_a_plugin_that_is_not_here", "url": "x"},
    ],
)
def test_the_data_that_a_model_was_trained_on_stays_as_text(dataset: Any, catalog: Catalog) -> None:
    recipe = resolve_described({**PLAIN, "dataset": dataset}, catalog)
    assert recipe.plain()["dataset"] == dataset


def test_a_loaded_model_has_the_identity_of_its_recipe(catalog: Catalog, tmp_path: Path) -> None:
    """What a picture says of the recipe that it was made by is what the run itself says, LPIPS and data included."""
    pytest.importorskip("torch", reason="torch is not installed")
    from ldm_core.sampling.pipeline import Pipeline

    plain = {
        **PLAIN,
        "dataset": {"use": "folder", "url": "s3://bucket/pictures"},
        "first_stage_trainer": {"lpips": "lpips.safetensors", "lr": 1e-3, "deepspeed_file": "ds.json"},
        "trainer": {"lr": 1e-3, "deepspeed": {"steps_per_print": 5}},
    }
    recipe = write_run(tmp_path / "run", plain)
    loaded = Pipeline.load(str(tmp_path / "run"), device="cpu", catalog=catalog)
    assert loaded.recipe.identity() == recipe.identity()
    about = loaded.sample("a red circle", seed=[1], steps=1)[0].metadata
    assert about["recipe_sha256"] == recipe.identity()
    assert json.loads(about["recipe"])["dataset"] == recipe.carried()["dataset"]


# ------------------------------------------------------------------------------------------------------ who is asked


def _draw(run: Path, out: Path, *more: str) -> tuple[int, Path]:
    argv = ["sample", str(run), "--images", "1", "--steps", "1", "--prompt", "a red circle", "--quiet"]
    return main([*argv, "--out", str(out), *more]), out


def test_a_tokenizer_that_is_not_in_the_weights_is_named_by_the_user(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocab.txt").write_text(VOCABULARY)
    (tmp_path / "private.txt").write_text(VOCABULARY + "topsecretword\n")
    bare = tmp_path / "bare"
    plain = {**PLAIN, "conditioners": [{**PLAIN["conditioners"][0], "tokenizer": str(tmp_path / "private.txt")}]}
    write_run(bare, plain, empty_tokenizer=True)
    assert _draw(bare, tmp_path / "no")[0] == 2
    assert "conditioners.text.tokenizer=PATH" in capsys.readouterr().err
    typed = f"conditioners.text.tokenizer={tmp_path / 'vocab.txt'}"
    assert _draw(bare, tmp_path / "other", typed)[0] == 2, "its hash is in the header"
    assert "is not the file that the recipe was made with" in capsys.readouterr().err
    assert _draw(bare, tmp_path / "yes", typed, "conditioners.text.tokenizer_sha256=")[0] == 2
    capsys.readouterr()
    assert main(["convert", str(bare), str(tmp_path / "made"), "--to", "ldm"]) == 0
    assert b"topsecretword" not in (tmp_path / "made" / artifacts.MODEL_FILE).read_bytes()
    typed = f"conditioners.text.tokenizer={tmp_path / 'private.txt'}"
    assert _draw(bare, tmp_path / "own", typed)[0] == 0
    assert main(["convert", str(bare), str(tmp_path / "whole"), "--to", "ldm", typed]) == 0
    assert b"topsecretword" in (tmp_path / "whole" / artifacts.MODEL_FILE).read_bytes()


def test_other_settings_of_a_trained_part_are_refused_as_before(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _draw(run, tmp_path, "conditioners.text.width=16")[0] == 2
    assert "is part of the trained model" in capsys.readouterr().err


CHANGED: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "hash a number": (("first_stage_sha256",), 5),
    "hash a list": (("first_stage_sha256",), ["ab"]),
    "names a number": (("class_names",), 5),
    "names of numbers": (("class_names",), {"class_label": [1, 2]}),
    "names a text": (("class_names",), {"class_label": "cat"}),
    "kind a list": (("kind",), ["model"]),
    "another kind": (("kind",), "\x1b[31m"),
    "format a text": (("format",), "1"),
    "a newer format": (("format",), 2),
    "versions a list": (("versions",), []),
    "a version a number": (("versions",), {"ldm-core": 1}),
    "no config": (("config",), None),
    "identity a mapping": (("identity",), {}),
}


@pytest.mark.parametrize("name", CHANGED)
def test_metadata_of_another_type_is_one_line(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, value = CHANGED[name]

    def change(model: Body, stage: Body) -> None:
        model[path[0]] = value

    changed = copy_run(run, tmp_path / "run", change)
    with pytest.raises(CheckpointError):
        artifacts.read_header(str(changed / artifacts.MODEL_FILE), "model")
    convert = ["convert", str(changed), str(tmp_path / "x"), "--to", "ldm"]
    for argv in (["sample", str(changed), "--images", "1"], convert):
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "\x1b" not in said and len(said.splitlines()) == 1


def test_a_file_whose_shapes_hold_more_than_its_bytes_is_damaged(run: Path, tmp_path: Path) -> None:
    header, body, tensors = read_file(run / artifacts.MODEL_FILE)
    first = next(key for key in header if key != "__metadata__")
    for shape in ([1 << 40], [10**9, 10**9], [-1], [1.5], ["1"], None, [1] * 100):
        path = tmp_path / "model.safetensors"
        write_file(path, {**header, first: {**header[first], "shape": shape}}, json.dumps(body), tensors)
        with pytest.raises(CheckpointError, match="is no safetensors file"):
            artifacts.read_header(str(path), "model")


# ------------------------------------------------------------------------------------------- manifests and checkpoints


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "http://127.0.0.1:9/x", "a/b", "a\0b", "", "..", "a\\b", "s3:b"]
)
def test_a_checkpoints_manifest_names_files_beside_it_alone(name: str) -> None:
    from ldm_core.training.checkpoints.files import _files

    entry = {"sha256": "ab", "bytes": 1}
    assert _files({"format": 2, "files": {"state-00000.safetensors": entry}})
    with pytest.raises(ValueError, match="another place"):
        _files({"format": 2, "files": {name: entry}})


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../etc/passwd"}, {"file": "http://127.0.0.1:9/x"}, {"file": 5}, {"count": -1}, {"count": "1"},
        {"first": "0"}, {"at": {"moments": -8}}, {"shape": [1 << 70]}, {"shape": [1] * 100}, {"at": []},
        {"bytes": None},
    ],
)  # fmt: skip
def test_a_manifest_of_latents_names_files_beside_it_alone(change: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from ldm_core.training.latents.shards import Source, read_manifest

    source = Source("a", "b", image_size=(8, 8), image_channels=3, fit="crop", flip=False)
    good = {"file": "shard-00000.safetensors", "number": 0, "count": 1, "first": 0, "bytes": 8, "shape": [1], "at": {}}

    def written(shard: dict[str, Any]) -> None:
        body = {"key": source.key, "count": shard["count"], "flips": source.flips, "dtype": source.dtype}
        (tmp_path / "manifest.json").write_text(json.dumps({**body, "shards": [shard]}))

    written(good)
    assert read_manifest(str(tmp_path), source) is not None
    written({**good, **change})
    with pytest.raises(CheckpointError, match=r"does not read|made from something else"):
        read_manifest(str(tmp_path), source)


def test_a_recipe_that_the_user_names_reaches_out(catalog: Catalog, tmp_path: Path) -> None:
    """The counterpart: what is typed is looked at, and its hash is kept."""
    (tmp_path / "vocab.txt").write_text(VOCABULARY)
    plain = {**PLAIN, "conditioners": [{**PLAIN["conditioners"][0], "tokenizer": str(tmp_path / "vocab.txt")}]}
    found = resolve(plain, catalog).conditioners[0].config
    assert found.tokenizer_sha256 == artifacts.sha256(str(tmp_path / "vocab.txt"))
