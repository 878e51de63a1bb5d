"""Presets in weights: written into the header, sampled by name, hostile ones refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from header_files import write_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.config.structure import unstructure
from ldm_core.data.images import png_metadata
from ldm_core.errors import CheckpointError, ConfigError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.weights import presets
from ldm_core.weights.presets import Measured, Preset, Value

FAST = Preset(
    settings={
        "sampler": {"use": "euler"},
        "guidance": {"use": "cfg", "scale": 1.5, "interval": [0.3, 5.0]},
        "sample": {"steps": 3},
    },
    precision="bf16",
    measured=Measured(
        values=(Value(name="fd", value=12.5, low=12.0, high=13.0),), images=64, seconds=0.01, speedup=4.0, machine="one"
    ),
)
BEST = Preset(settings={"sampler": "ddim", "sample": {"steps": 6}})
MADE = {"fast": FAST, "best": BEST}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights, and without presets."""
    folder = tmp_path_factory.mktemp("presets") / "run"
    write_run(folder)
    model = folder / "model.safetensors"
    with safe_open(model, "pt") as file:
        meta = file.metadata()
    random = torch.Generator().manual_seed(1)
    state = {
        k: v + 0.1 * torch.randn(v.shape, generator=random) if v.is_floating_point() else v
        for k, v in load_file(model).items()
    }
    save_file(state, model, meta)
    return folder


@pytest.fixture
def run(plain_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def pipeline(plain_run: Path, catalog: Catalog) -> Pipeline:
    made = ldm_core.load(plain_run, catalog=catalog)
    made.presets_text = json.dumps({"format": 1, "presets": unstructure(MADE)})
    return made


def draw(pipeline: Any, **arguments: Any) -> np.ndarray:
    return np.stack([one.image for one in pipeline.sample("a red circle", images=2, **arguments)])


def test_the_tensors_and_the_hash_stay_as_they_were(run: Path, catalog: Catalog) -> None:
    file = run / "model.safetensors"
    before, tensors, known = file.read_bytes(), load_file(file), artifacts.sha256(str(file))
    file.chmod(0o640)
    for made in (MADE, {"best": BEST}, MADE):
        presets.write(str(file), made, catalog)
        assert presets.read(str(run), catalog) == made
        assert artifacts.sha256(str(file)) == known == hashlib.sha256(before).hexdigest()
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0 and file.stat().st_mode & 0o777 == 0o640
        assert all(torch.equal(tensors[k], v) for k, v in load_file(file).items())
        assert artifacts.read_header(str(file), "model").extra == artifacts.read_header(str(file), "model").extra
    whole = hashlib.sha256(file.read_bytes()).hexdigest()
    assert not artifacts.another(str(file), known) and not artifacts.another(str(file), whole) and whole != known
    assert artifacts.another(str(file), "0" * 64) == known
    presets.write(str(file), {}, catalog)
    assert file.read_bytes() == before


def test_a_link_stays_one_and_other_weights_are_not_written(run: Path, catalog: Catalog, tmp_path: Path) -> None:
    file, link = run / "model.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(file)
    presets.write(str(link), MADE, catalog)
    assert link.is_symlink() and presets.read(str(run), catalog) == MADE
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="other weights by now"):
        presets.write(str(file), {}, catalog, sha256="0" * 64)
    with pytest.raises(ConfigError, match="17 presets; at most 16"):
        presets.write(str(file), {f"p{i}": BEST for i in range(17)}, catalog)
    with pytest.raises(ConfigError, match="65,536 bytes are written"):
        wide = Value(name="fd", value=0.0, label="x" * 300)
        many = Measured(seconds=1.0, values=(wide,) * 250)
        presets.write(str(file), {"fast": Preset(measured=many)}, catalog)
    assert file.read_bytes() == before


def test_a_failed_writing_leaves_the_file_as_it_was(
    run: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run / "model.safetensors"
    before = file.read_bytes()

    def full(source: Any, target: Any, size: int) -> None:
        target.write(source.read(100))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ldm_core.weights.presets.shutil.copyfileobj", full)
    with pytest.raises((OSError, StorageError)):
        presets.write(str(file), MADE, catalog)
    assert file.read_bytes() == before and sorted(p.name for p in run.iterdir() if p.suffix == ".part") == []


def test_a_preset_is_what_its_settings_are(pipeline: Pipeline, plain_run: Path) -> None:
    base = draw(pipeline)
    by_hand = pipeline.with_settings(["sampler=euler", "guidance.scale=1.5", "guidance.interval=[0.3,5]"])
    assert (draw(pipeline, preset="best") == draw(pipeline.with_settings(["sampler=ddim"]), steps=6)).all()
    rounded = ldm_core.load(plain_run, precision="bf16", catalog=pipeline.catalog)
    rounded = rounded.with_settings(["sampler=euler", "guidance.scale=1.5", "guidance.interval=[0.3,5]"])
    assert (draw(pipeline, preset="fast") == draw(rounded, steps=3)).all()
    full = pipeline.with_preset("fast", precision="fp32")
    assert (draw(full) == draw(by_hand, steps=3)).all() and (draw(full) != draw(pipeline, preset="fast")).any()
    assert (draw(pipeline) == base).all() and pipeline.model.precision == "fp32"
    assert {p.dtype for p in pipeline.model.parameters()} == {torch.float32}


def test_settings_beside_a_preset_win_and_are_named(pipeline: Pipeline) -> None:
    wanted = draw(pipeline.with_settings(["sampler=ddim", "guidance.scale=3"]), steps=6)
    before, after = pipeline.with_settings(["guidance.scale=3"]), {"guidance": {"scale": 3.0}}
    assert (draw(before, preset="best") == wanted).all()
    assert (draw(pipeline.with_preset("best").with_settings(after)) == wanted).all()
    assert (draw(pipeline, preset="best", guidance=3.0) == wanted).all()
    told = [
        before.sample("a", images=1, preset="best", steps=2)[0].metadata,
        pipeline.sample("a", images=1, preset="best", guidance=3.0)[0].metadata,
        pipeline.sample("a", images=1, preset="fast")[0].metadata,
        pipeline.sample("a", images=1)[0].metadata,
    ]
    keys = ("preset", "preset_changed", "precision", "steps")
    assert [[each.get(key) for key in keys] for each in told] == [
        ["best", "guidance.scale, steps", "fp32", "2"],
        ["best", "guidance", "fp32", "6"],
        ["fast", None, "bf16", "3"],
        [None, None, None, "2"],
    ]
    assert json.loads(told[2]["recipe"])["sampler"]["use"] == "euler"
    assert not pipeline.with_preset("best").like("compvis").preset


def test_threads_sample_by_presets_of_their_own(pipeline: Pipeline) -> None:
    wanted = {name: draw(pipeline, **how) for name, how in WAYS.items()}
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda name: (name, draw(pipeline, **WAYS[name])), list(WAYS) * 2))
    assert all((picture == wanted[name]).all() for name, picture in made)


WAYS: dict[str, dict[str, Any]] = {"fast": {"preset": "fast"}, "best": {"preset": "best"}, "own": {}}


def test_cells_of_a_grid_are_presets(pipeline: Pipeline) -> None:
    grid = pipeline.grid("a red circle", axes={"preset": ["best"], "steps": [2, 3]}, images=1)
    assert (grid.images[1][0].image == draw(pipeline, preset="best", steps=3)[0]).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.sample("a", preset="fats"), "none of this name; did you mean 'fast'"),
        (lambda p: p.sample("a", preset=3), "expected the name of a preset"),
        (lambda p: p.like("compvis").sample("a", preset="fast"), "both say how to sample"),
        (lambda p: p.grid("a", axes={"preset": ["slow"]}), "none of this name"),
        (lambda p: Pipeline(p.recipe, p.stage, p.model, p.catalog).with_preset("fast"), "the command `tune`"),
    ],
)
def test_a_preset_that_is_none_is_a_line(pipeline: Pipeline, call: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call(pipeline)


def _settings(**settings: Any) -> Any:
    return {"format": 1, "presets": {"fast": {"settings": settings}}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "expected a mapping"),
        ({"format": 2, "presets": {}}, "newer than this ldm-core"),
        ({"format": 1, "presets": {}, "more": 1}, "more"),
        ({"format": 1, "presets": {"Fast \x1b[2J": {}}}, "no name of a preset"),
        ({"format": 1, "presets": {"fast": {"code": "import os"}}}, "code"),
        ({"format": 1, "presets": {"fast": {"precision": "int8"}}}, "precision"),
        ({"format": 1, "presets": {"fast": {"measured": {"seconds": "1"}}}}, "expected a number"),
        ({"format": 1, "presets": {"fast": {"measured": {"seconds": 1.0, "machine": "x" * 301}}}}, "at most 300"),
        ({"format": 1, "presets": {f"p{i}": {} for i in range(17)}}, "at most 16"),
        (_settings(denoiser={"use": "unet"}), "a preset takes sampler"),
        (_settings(dataset={"use": "tar"}), "a preset takes sampler"),
        (_settings(sample={"batch": 10**9}), "sample.batch: a preset takes steps"),
        (_settings(sample={"steps": 10**9}), "from 1 to 10,000"),
        (_settings(sample={"steps": True}), "from 1 to 10,000"),
        (_settings(sampler="/etc/passwd"), "names a place"),
        (_settings(guidance={"use": "autoguidance", "model": "https://evil.example/model.safetensors"}), "a place"),
        (_settings(guidance={"model": "https://evil.example/model.safetensors"}), "with its name as `use`"),
        (_settings(guides=[{"use": "autoguidance", "model": "//evil/share"}]), "names a place"),
        (_settings(adapters=[{"use": "lora", "weights": "//evil/share.safetensors"}]), "names a place"),
        (_settings(adapters={"x": {"use": "lora", "weights": "x.safetensors"}}), "expected a list of parts"),
        (_settings(adapters=["../adapter.safetensors"]), "names a place"),
        (_settings(sampler=[1]), "expected a part"),
        (_settings(sample=[1]), "expected a mapping"),
    ],
)
def test_hostile_presets_are_refused_and_the_model_loads(
    document: Any, said: str, plain_run: Path, pipeline: Pipeline
) -> None:
    text = json.dumps(document)
    with pytest.raises(CheckpointError, match=said) as error:
        presets.parse(text, "x.safetensors", pipeline.catalog)
    assert str(error.value).startswith("x.safetensors: its presets do not read: ") and "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10_000, '{"format": 1e999}', '{"format": 1, "presets": {"fast": {}}' + " " * 70_000 + "}"]
)
def test_texts_that_are_no_presets_are_refused(text: str, catalog: Catalog) -> None:
    with pytest.raises(CheckpointError, match="do not read"):
        presets.parse(text, "x.safetensors", catalog)


@pytest.mark.parametrize("settings", [{"sampler": "no_such"}, {"sampler": {"use": "euler", "eta": "x" * 10**4}}])
def test_a_preset_of_parts_that_are_not_here_is_a_line(settings: Any, pipeline: Pipeline) -> None:
    made = Pipeline(pipeline.recipe, pipeline.stage, pipeline.model, pipeline.catalog)
    made.presets_text = json.dumps(_settings(**settings))
    with pytest.raises(ConfigError) as error:
        made.sample("a", preset="fast")
    assert len(error.value.problems) == 1 and len(str(error.value)) < 400


def test_damaged_presets_do_not_stand_in_the_way(run: Path, catalog: Catalog) -> None:
    file = run / "model.safetensors"
    wanted, known = draw(ldm_core.load(run, catalog=catalog)), artifacts.sha256(str(file))
    head = file.read_bytes()
    length = int.from_bytes(head[:8], "little") + 8
    file.write_bytes((artifacts.with_presets(head[:length], "\x00{'é") or b"") + head[length:])
    assert artifacts.sha256(str(file)) == known
    made = ldm_core.load(run, catalog=catalog)
    assert (draw(made) == wanted).all()
    with pytest.raises(CheckpointError, match="its presets do not read"):
        made.sample("a", preset="fast")
    presets.write(str(file), MADE, catalog)
    assert presets.read(str(file), catalog) == MADE


def test_the_command_takes_a_preset_and_lists_them(
    run: Path, tmp_path: Path, catalog: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    presets.write(str(run / "model.safetensors"), MADE, catalog)
    out = str(tmp_path / "out")
    words = ["sample", str(run), "--prompt", "a red circle", "--images", "1", "--out", out]
    assert main([*words, "--preset", "fast", "--steps", "2", "guidance.scale=4"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "preset fast: sampler euler, 2 steps" in said and "guidance cfg 4" in said
    assert "bf16; set beside it: guidance.scale, steps" in said
    (file,) = Path(out).glob("0000-*.png")
    about = png_metadata(file.read_bytes())
    assert about["preset"] == "fast" and about["preset_changed"] == "guidance.scale, steps"
    assert main(["sample", str(run), "--help-inputs"]) == 0
    told = capsys.readouterr().out
    assert "--preset fast" in told and "10 ms a picture, 4 times as fast as the recipe's own settings" in told
    assert "fd 12.5 (12 to 13)" in told and "--preset best             not measured" in told and "on one" in told
    assert main(["sample", str(run), "--help-inputs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["presets"]["fast"]["measured"]["seconds"] == 0.01
    assert main([*words, "--preset", "slow"]) == 2 and "they have fast, best" in capsys.readouterr().err
    assert main([*words, "--preset", "fast", "--like", "compvis"]) == 2
    assert main(["inspect", str(run)]) == 0
    told = capsys.readouterr().out
    assert "has the presets fast, best" in told and "ldm_core_presets" not in told
