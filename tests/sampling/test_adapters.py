"""Adapters as artefacts: trained alone, written, added to a loaded model, changed in strength and taken off again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from class_model import drawn, recipe
from one_thread import each_module as _one_thread  # noqa: F401
from safetensors.torch import load_file, save_file
from together import together

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.data.images import png_metadata
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.sampling.pipeline import Pipeline

pytest.importorskip(
    "ldm_contract_plugin", reason="these tests need the test plugin: pip install ./tests/contract_plugin"
)

RECIPE = recipe(attention=[2], steps=4, lr=0.01)
HUGE = 1 << 20
"""A rank whose matrices would take gigabytes."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def train(place: Path, out: str, *settings: str) -> Path:
    command = ["--recipe", str(place / "recipe.yaml"), "--out", str(place / out), "--quiet", *settings]
    assert main(command) == 0
    return place / out


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    """A model without any adapter, trained by the command line."""
    return train(place, "base")


@pytest.fixture(scope="module")
def trained(place: Path, base: Path) -> Path:
    """Two adapters, trained alone on it by the command line."""
    return train(
        place,
        "adapted",
        f"first_stage={base}",
        "adapters={style: {use: lora, rank: 2}, turned: {use: oft, block: 2, targets: [to_q, to_k, to_v]}}",
        f"trainer.init_from={base}",
        "trainer.train=adapters",
        "trainer.lr=0.1",
    )


@pytest.fixture(scope="module")
def style(trained: Path) -> Path:
    return trained / "adapters" / "style.safetensors"


@pytest.fixture(scope="module")
def turned(trained: Path) -> Path:
    return trained / "adapters" / "turned.safetensors"


@pytest.fixture(scope="module")
def plain(base: Path) -> Pipeline:
    return ldm_core.load(str(base), device="cpu")


def added(pipeline: Pipeline, file: Path, name: str = "style", **more: Any) -> Pipeline:
    return pipeline.with_settings({"adapters": {name: {"weights": str(file), **more}}})


def test_a_run_trains_adapters_alone_and_writes_their_files(base: Path, trained: Path, style: Path) -> None:
    before, after = load_file(base / "model.safetensors"), load_file(trained / "model.safetensors")
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert {k.split(".")[1] for k in after.keys() - before.keys()} == {"style", "turned"}
    own = load_file(style)
    assert {f"adapters.style.{k}" for k in own} == {k for k in after if k.startswith("adapters.style.")}
    assert all(torch.equal(after[f"adapters.style.{k}"], v) for k, v in own.items())
    assert any(bool(v.any()) for k, v in own.items() if k.startswith("up."))
    header = artifacts.read_header(str(style), "adapter")
    assert (header.use, header.config["rank"], header.extra["name"]) == ("lora", 2, "style")
    assert header.extra["base_sha256"] == artifacts.sha256(str(base / "model.safetensors"))
    assert style.stat().st_size < (trained / "model.safetensors").stat().st_size / 4


def test_a_file_makes_of_the_base_what_the_run_holds(plain: Pipeline, trained: Path, style: Path, turned: Path) -> None:
    both = added(added(plain, style), turned, "turned")
    assert np.array_equal(drawn(both), drawn(ldm_core.load(str(trained), device="cpu")))
    assert not np.array_equal(drawn(both), drawn(added(plain, style)))


def test_added_changed_and_taken_off_bit_for_bit(plain: Pipeline, style: Path) -> None:
    state = {k: v.clone() for k, v in plain.model.state_dict().items()}
    before = drawn(plain)
    strong = added(plain, style)
    adapted = drawn(strong)
    assert not np.array_equal(before, adapted)
    weak = strong.with_settings(["adapters.style.scale=0.3"])
    assert weak.recipe.adapters[0].scale == 0.3
    assert not np.array_equal(drawn(weak), adapted) and not np.array_equal(drawn(weak), before)
    assert np.array_equal(drawn(weak.with_settings(["adapters.style.scale=0"])), before)
    assert np.array_equal(drawn(weak.with_settings(["adapters.style.scale=1"])), adapted)
    each_way: list[Any] = [
        {"adapters": {"style": None}},
        {"adapters": []},
        ["adapters.style="],
        ["adapters=[]"],
    ]
    for off in each_way:
        assert strong.with_settings(off).model is plain.model
    assert np.array_equal(drawn(plain), before) and np.array_equal(drawn(strong), adapted)
    assert all(torch.equal(v, state[k]) for k, v in plain.model.state_dict().items())
    shared = dict(strong.model.named_parameters())
    assert all(shared[k] is v for k, v in plain.model.named_parameters()), "weights are shared, not copied"


def test_pipelines_beside_each_other_in_threads_do_as_alone(plain: Pipeline, style: Path, turned: Path) -> None:
    strong = added(plain, style)
    several = {
        "without": plain,
        "with": strong,
        "weak": strong.with_settings(["adapters.style.scale=0.4"]),
        "turned": added(plain, turned, "turned"),
    }
    alone = {name: drawn(pipeline) for name, pipeline in several.items()}

    def thrice(pipeline: Pipeline) -> list[np.ndarray]:
        return [drawn(pipeline) for _ in range(3)]

    found = together(partial(thrice, pipeline) for pipeline in several.values())
    for name, results in zip(several, found, strict=True):
        assert all(np.array_equal(each, alone[name]) for each in results), name


def test_a_scale_set_within_a_run_reaches_prepared_keys(plain: Pipeline, style: Path) -> None:
    pipeline = added(plain, style)
    adapter: Any = pipeline.model.attached["style"]

    def fade(progress: Any) -> None:
        adapter.scale = 0.0

    faded = drawn(pipeline, callback=fade)
    adapter.scale = 1.0
    model: Any = pipeline.model.denoiser
    kept, model.prepare = model.prepare, None  # keys are then made at each step
    try:
        assert np.array_equal(faded, drawn(pipeline, callback=fade))
    finally:
        model.prepare = kept
        adapter.scale = 1.0
    assert not np.array_equal(faded, drawn(pipeline))


def test_an_adapter_of_a_trained_model_changes_its_strength_and_goes(
    base: Path, trained: Path, plain: Pipeline
) -> None:
    own = ldm_core.load(str(trained), device="cpu")
    assert [part.name for part in own.recipe.adapters] == ["style", "turned"]
    bare = own.with_settings(["adapters.style=", "adapters.turned="])
    assert np.array_equal(drawn(bare), drawn(plain))
    weak = own.with_settings(["adapters.turned.scale=0.5", "adapters.style=null"])
    assert [part.scale for part in weak.recipe.adapters] == [0.5]
    assert np.array_equal(drawn(weak.with_settings(["adapters.turned.scale=0"])), drawn(plain))
    assert own.with_settings({"adapters": ["turned"]}).recipe.adapters[0].name == "turned"


def sampled(out: Path) -> list[tuple[bytes, dict[str, str]]]:
    files = sorted(p for p in out.iterdir() if p.name != "grid.png")
    return [(png_pixels(p), png_metadata(p.read_bytes())) for p in files]


def png_pixels(path: Path) -> bytes:
    from PIL import Image

    return Image.open(path).tobytes()


def test_the_command_line_adds_an_adapter(
    plain: Pipeline, base: Path, trained: Path, style: Path, tmp_path: Path
) -> None:
    def sample(out: str, *settings: str) -> list[tuple[bytes, dict[str, str]]]:
        place = tmp_path / out
        more = ["--input", "class_label=1", "--images", "2", "--steps", "3", "--seed", "5", "--out", str(place)]
        assert main(["sample", str(base), "--quiet", *more, *settings]) == 0
        return sampled(place)

    before, with_it = sample("before"), sample("with", f"adapters.style.weights={style}", "adapters.style.scale=0.7")
    assert [pixels for pixels, _ in before] != [pixels for pixels, _ in with_it]
    about = with_it[0][1]
    assert about["adapters"] == f"style scale 0.7 sha256 {artifacts.sha256(str(style))}"
    assert "adapters" not in before[0][1]
    (row,) = json.loads(about["recipe"])["adapters"]
    assert (row["name"], row["scale"], row["sha256"]) == ("style", 0.7, artifacts.sha256(str(style)))
    inner = added(plain, style, scale=0.7).sample(inputs={"class_label": 1}, images=2, steps=3, seed=5)
    assert [each.image.transpose(1, 2, 0).tobytes() for each in inner] == [pixels for pixels, _ in with_it]
    of_folder = sample("folder", f"adapters.style.weights={trained}", "adapters.style.scale=0.7")
    assert [pixels for pixels, _ in of_folder] == [pixels for pixels, _ in with_it]
    assert sample("zero", f"adapters.style.weights={style}", "adapters.style.scale=0")[0][0] == before[0][0]


def test_training_alone_resumes_bit_for_bit(place: Path, base: Path, trained: Path) -> None:
    settings = (
        f"first_stage={base}",
        "adapters={style: {use: lora, rank: 2}, turned: {use: oft, block: 2, targets: [to_q, to_k, to_v]}}",
        f"trainer.init_from={base}",
        "trainer.train=adapters",
        "trainer.lr=0.1",
        "trainer.checkpoint_every=2",
    )
    out = train(place, "again", *settings)
    whole = {name: (out / name).read_bytes() for name in ("adapters/style.safetensors", "adapters/turned.safetensors")}
    assert all(torch.equal(v, load_file(trained / n)[k]) for n in whole for k, v in load_file(out / n).items())
    for name in (*whole, "model.safetensors"):
        (out / name).unlink()
    newest = max((out / "checkpoints" / "denoiser").iterdir(), key=lambda p: p.name)
    for file in sorted(newest.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    newest.rmdir()
    train(place, "again", *settings)
    assert {name: (out / name).read_bytes() for name in whole} == whole


def test_inspect_and_convert_say_what_it_is(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(style)]) == 0
    text = capsys.readouterr().out
    assert "an adapter of ldm-core ('lora')" in text and "trained on the model with sha256" in text
    half = tmp_path / "half.safetensors"
    assert main(["convert", str(style), str(half), "--to", "ldm", "--dtype", "bf16"]) == 0
    assert "an adapter of ldm-core ('lora')" in capsys.readouterr().out
    assert {v.dtype for v in load_file(half).values()} == {torch.bfloat16}
    assert main(["convert", str(half), str(tmp_path / "folder"), "--to", "ldm"]) == 0
    assert (tmp_path / "folder" / "adapter.safetensors").is_file()
    assert main(["inspect", str(tmp_path / "folder")]) == 0
    capsys.readouterr()
    for other in ("compvis", "diffusers"):
        if other in Catalog.discover().names("codec"):
            assert main(["convert", str(style), str(tmp_path / other), "--to", other]) == 2
            assert f"codec '{other}' writes none" in capsys.readouterr().err
    assert main(["sample", str(style)]) == 2
    assert "adapters.NAME.weights=" in capsys.readouterr().err


def test_a_converted_adapter_can_be_added(plain: Pipeline, style: Path, tmp_path: Path) -> None:
    assert main(["convert", str(style), str(tmp_path / "folder"), "--to", "ldm"]) == 0
    assert np.array_equal(drawn(added(plain, tmp_path / "folder")), drawn(added(plain, style)))


REFUSED: Sequence[tuple[Any, str]] = (
    ({"adapters": {"style": {"use": "lora"}}}, "adapters.style: is not trained"),
    ({"adapters": {"gone": None}}, "adapters.gone: there is none"),
    ({"adapters": {"style": {"weights": "STYLE", "rank": 3}}}, "a trained adapter keeps its own settings (rank: 2"),
    ({"adapters": {"style": {"weights": "STYLE", "use": "oft"}}}, "holds a 'lora', not a 'oft'"),
    ({"adapters": {"style": {"weights": "STYLE", "sha256": "ab" * 32}}}, "is not the file that the recipe was made"),
    ({"adapters": {"a b": {"weights": "STYLE"}}}, "expected an identifier"),
    ({"adapters": {"style": {"weights": "STYLE", "scale": "much"}}}, "scale"),
    ({"adapters": {"style": {"weights": "BASE"}}}, "holds no adapters/NAME.safetensors"),
    ({"adapters": {"style": {"weights": "BASE/model.safetensors"}}}, "holds a model, not an adapter"),
    ({"adapters": {"style": 3}}, "expected settings"),
)


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_added_is_said(
    settings: dict[str, Any], words: str, plain: Pipeline, base: Path, style: Path
) -> None:
    text = json.dumps(settings).replace("STYLE", str(style)).replace("BASE", str(base))
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        plain.with_settings(json.loads(text))
    assert words in str(caught.value)


def test_hostile_files_are_refused(plain: Pipeline, style: Path, tmp_path: Path) -> None:
    config = dict(artifacts.read_header(str(style), "adapter").config)
    tensors = load_file(style)
    first = next(iter(tensors))
    for use, conf, held, words in (
        ("lora", {**config, "rank": HUGE}, tensors, "another architecture"),
        ("lora", {**config, "targets": ["nothing"]}, tensors, "no linear layer"),
        ("lora", {**config, "more": 1}, tensors, "more"),
        ("lora", config, {k: v for k, v in tensors.items() if k != first}, "1 missing"),
        ("lora", config, {**tensors, "extra": torch.zeros(1)}, "1 unexpected"),
        ("lora", config, {**tensors, first: torch.zeros(3, 3)}, "of another shape"),
        ("no_such", config, tensors, "no adapter named 'no_such'"),
    ):
        file = tmp_path / "hostile.safetensors"
        save_file(held, file, metadata=artifacts.metadata("adapter", use, conf, {}))
        with pytest.raises(ldm_core.LDMError) as caught:
            added(plain, file)
        assert words in str(caught.value), str(caught.value)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(style.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cut short"):
        added(plain, cut)


def test_a_model_file_names_no_file_of_an_adapter(trained: Path, base: Path, tmp_path: Path) -> None:
    header = artifacts.read_header(str(trained / "model.safetensors"), "model")
    evil = str(tmp_path / "evil.safetensors")
    for rows in (
        [{**row, "weights": evil, "sha256": ""} for row in header.config["adapters"]],
        {row["name"]: {**row, "weights": evil} for row in header.config["adapters"]},
        [{"weights": evil, "name": "style"}],
    ):
        place = tmp_path / "run"
        place.mkdir(exist_ok=True)
        (place / "first_stage.safetensors").write_bytes((trained / "first_stage.safetensors").read_bytes())
        meta = artifacts.metadata(
            "model", header.use, {**header.config, "adapters": rows}, header.versions, **header.extra
        )
        save_file(load_file(trained / "model.safetensors"), place / "model.safetensors", metadata=meta)
        try:
            pipeline = ldm_core.load(str(place), device="cpu")
        except ldm_core.LDMError as error:
            assert "evil" not in str(error)
        else:
            assert all(not part.weights for part in pipeline.recipe.adapters)


def test_a_recipe_starts_from_an_adapter(place: Path, base: Path, style: Path) -> None:
    """An adapter with weights is there, frozen, from the first step; with `train` it goes on from them."""
    shared = (f"first_stage={base}", f"trainer.init_from={base}", "trainer.steps=2")
    frozen = train(place, "frozen", *shared, f"adapters.style.weights={style}")
    kept = load_file(frozen / "model.safetensors")
    assert all(torch.equal(kept[f"adapters.style.{k}"], v) for k, v in load_file(style).items())
    assert not (frozen / "adapters").exists()
    before = load_file(base / "model.safetensors")
    assert any(not torch.equal(kept[k], v) for k, v in before.items() if k.startswith("denoiser."))
    elsewhere = place / "elsewhere.safetensors"
    elsewhere.write_bytes(style.read_bytes())
    before_again = (frozen / "model.safetensors").read_bytes()
    train(place, "frozen", *shared, f"adapters.style.weights={elsewhere}")  # of the same content: the same run
    assert (frozen / "model.safetensors").read_bytes() == before_again
    more = (f"adapters.style.weights={style}", "adapters.style.train=true", "trainer.train=adapters")
    further = train(place, "further", *shared, *more)
    moved = load_file(further / "adapters" / "style.safetensors")
    assert any(not torch.equal(moved[k], v) for k, v in load_file(style).items())
