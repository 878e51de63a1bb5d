"""``sample --grid`` and ``--class all``: cells are the plain command's pictures to the bit, and sheets show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_thread import each_module as _one_thread  # noqa: F401
from toy_models import toy

from ldm_core.cli import main
from ldm_core.data import images
from ldm_core.errors import ConfigError
from ldm_core.sampling.grids.axes import Axis, axes_of
from ldm_core.sampling.pipeline import Pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy("class", tmp_path_factory.mktemp("class"))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy("layout", tmp_path_factory.mktemp("layout"))


def made(*words: str, out: str) -> dict[str, bytes]:
    assert main(["sample", *words, "--quiet", "--out", out]) == 0
    return {path.name: path.read_bytes() for path in sorted(Path(out).iterdir())}


def test_each_cell_is_the_plain_commands_picture(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [str(model), "--class", "dog", "--seed", "7", "--images", "2"]
    axes = ["--grid", "guidance=1,3.5", "--grid", "sampler=ddim,euler", "--grid", "steps=2,3"]
    assert main(["sample", *line, *axes, "--quiet", "--json", "--out", "grid"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert [each["setting"] for each in said["axes"]] == ["guidance", "sampler", "steps"]
    assert len(said["cells"]) == 8 and said["pages"] == ["grid/grid-1.png", "grid/grid-2.png"]
    assert [(c["page"], c["row"], c["column"]) for c in said["cells"][:3]] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    for number, cell in enumerate(said["cells"]):
        settings = cell["settings"]
        own = ["--guidance", f"{settings['guidance']}", "--sampler", settings["sampler"]]
        plain = made(*line, *own, "--steps", f"{settings['steps']}", out=f"plain{number}")
        assert len(cell["files"]) == 2
        for file, (name, data) in zip(cell["files"], plain.items(), strict=False):
            assert Path(file).read_bytes() == data, f"{name} with {settings}, its metadata too"
            assert f"seed{images.png_metadata(data)['seed']}-guidance=" in file
    page = images.png_metadata(Path("grid/grid-1.png").read_bytes())
    assert page["axis_0"] == "guidance = 1, guidance = 3.5" and page["axis_2"] == "steps = 2, steps = 3"


def test_the_same_from_python(model: Path) -> None:
    pipeline = Pipeline.load(model)
    axes: dict[str, list[Any]] = {"guidance.scale": [1, 3], "time_grid": ["trailing", "karras"]}
    grid = pipeline.grid(axes=axes, inputs={"class_label": "cat"}, seed=[4, 9])
    assert repr(grid) == "Grid(2 guidance.scale x 2 time_grid)" and grid.title == "cat"
    for cell, drawn in zip(grid.cells, grid.images, strict=True):
        other = pipeline.with_settings(
            {"guidance": {"scale": cell.values["guidance.scale"]}, "time_grid": cell.values["time_grid"]}
        ).sample(inputs={"class_label": "cat"}, seed=[4, 9])
        for one, same in zip(drawn, other, strict=True):
            assert (one.image == same.image).all() and one.metadata == same.metadata and one.seed == same.seed
    (page,) = grid.pages()
    shown = np.asarray(page)
    block = np.kron(grid.images[3][1].image.transpose(1, 2, 0), np.ones((6, 6, 1), np.uint8))
    tall, wide = block.shape[:2]
    rows, columns = np.nonzero((shown[: -tall + 1, : -wide + 1] == block[0, 0]).all(-1))
    found = [(shown[y : y + tall, x : x + wide] == block).all() for y, x in zip(rows, columns, strict=True)]
    assert sum(found) == 1, "a cell is shown whole, enlarged by a whole number"


def test_prompts_are_pages_or_an_axis(tmp_path: Path) -> None:
    pipeline = Pipeline.load(toy("letters", tmp_path))
    grid = pipeline.grid(["a", "b"], axes={"steps": [1, 2], "seed": [3, 4]})
    assert [axis.name for axis in grid.axes] == ["steps", "seed", "prompt"] and len(grid.pages()) == 2
    assert [images[0].prompt for images in grid.images] == ["a"] * 4 + ["b"] * 4
    same = pipeline.sample("b", steps=2, seed=4)[0]
    assert (grid.images[7][0].image == same.image).all()
    other = pipeline.grid(axes={"prompt": ["x, or y", "z"], "negative": ["u", "v"]}, steps=1)
    assert other.images[1][0].metadata["negative"] == "u" and other.images[1][0].prompt == "z"


@pytest.mark.parametrize(
    "axes, said",
    [
        (["guidance"], "grid 'guidance': expected KEY=VALUE,VALUE such as guidance=1,3,7"),
        (["guidance=1,,3"], "grid 'guidance=1,,3': a value is empty; expected guidance=VALUE,VALUE"),
        (["guidance=1,1.0"], "grid: guidance: 1 is there twice"),
        (["steps=2", "steps=3"], "grid: 'steps' is there twice; give all of its values at once"),
        (["a=1", "b=1", "c=1", "d=1"], "expected one to three axes (columns, rows, pages; several prompts are one)"),
        (["images=1,2"], "grid: images: each cell holds the same images; give --images"),
        (["steps=2,0"], "grid, steps = 0: steps=0: expected a whole number above 0"),
        (["sampler=ddim,nosuch"], "sampler: no sampler named 'nosuch'"),
        (["trainer.lr=1,2"], "trainer: is part of the trained model"),
        (["strength=0.5,0.7"], "grid: strength is for a run that begins from a picture; give one with --image"),
        (["prompt=a,b"], "a prompt was given, and no conditioner of this model reads captions"),
        (["class=cat,horse"], "class_label: no class named 'horse'"),
        (["seed=1..2000", "steps=1,2"], "grid: 4,000 cells; at most 2,000 are drawn"),
        (["seed=1.5,2"], "grid: seed: expected whole numbers, 0 or more, got 1.5"),
    ],
)  # fmt: skip
def test_what_is_no_grid(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    axes: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [] if axes[0].startswith("class") else ["--class", "cat"]
    assert main(["sample", str(model), *given, "--quiet", *(word for axis in axes for word in ("--grid", axis))]) == 2
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir()), "nothing is drawn where any cell is wrong"


def test_axes_are_read() -> None:
    assert Axis.read("prompt=[a cat, 'red, or blue', 7]").values == ("a cat", "red, or blue", "7")
    assert Axis.read("guidance.interval=[[0.3, 5], [0, 1]]").labels() == [
        "guidance.interval = [0.3, 5]",
        "guidance.interval = [0, 1]",
    ]
    assert Axis.read("class=007, 7").values == ("007", "7"), "names are no numbers"
    with pytest.raises(ConfigError, match="2,001 cells; at most 2,000"):
        axes_of({"seed": range(2001)}, None)


def test_all_classes_are_a_sheet_with_their_names(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = made(str(model), "--class", "all", out="all")
    classes = [images.png_metadata(data)["class_label"] for name, data in found.items() if name != "grid.png"]
    assert classes == ["cat (0)", "dog (1)", "red fox (2)"]
    found = made(str(model), "--class", "red fox", "--class", "cat", "--images", "3", out="two")
    classes = [images.png_metadata(data)["class_label"] for name, data in found.items() if name != "grid.png"]
    assert classes == ["red fox (2)", "cat (0)", "red fox (2)"]
    capfd.readouterr()
    assert main(["sample", str(model), "--grid", "class=all", "--quiet", "--json", "--out", "grid"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert [cell["settings"]["class"] for cell in said["cells"]] == ["cat", "dog", "red fox"]


def test_boxes_are_drawn_over_the_samples(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ldm_core.training.samples import layouts

    monkeypatch.chdir(tmp_path)
    boxes = '{"boxes": [[0.1, 0.2, 0.4, 0.5], [0.5, 0.5, 0.4, 0.4]], "labels": ["tree", 2]}'
    found = made(str(layout), "--boxes", boxes, "--images", "1", out="boxed")
    sample = images.decode_image(found["0000-seed0.png"])
    sheet = images.decode_image(found["grid-boxes.png"])
    assert sheet.shape == (3, 176 + 8, 264 + 8), "16x24 pixels, 11 times as large, in a frame"
    shown = sheet[:, 4:-4, 4:-4]
    for label in (0, 2):
        assert (shown == np.array(layouts.colour(label))[:, None, None]).all(0).sum() > 100
    enlarged = sample.repeat(11, axis=1).repeat(11, axis=2)
    assert (shown == enlarged).all(0).mean() > 0.7, "the sample itself is seen beneath"
    assert "boxed/grid-boxes.png" in capfd.readouterr().out


def test_an_interrupted_grid_keeps_its_cells(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ldm_core.cli.samples.grid import GridOutput

    take = GridOutput.take

    def interrupted(output: GridOutput, batch: Sequence[Any]) -> None:
        if len(output.written) == 3:
            raise KeyboardInterrupt
        take(output, batch)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GridOutput, "take", interrupted)
    line = ["sample", str(model), "--class", "cat", "--grid", "seed=1..3", "--grid", "steps=1,2", "--quiet"]
    assert main([*line, "--out", "g"]) == 130
    assert "3 of 6 pictures are finished and lie in g" in capfd.readouterr().err
    assert len(list(Path("g").glob("0*.png"))) == 3
    sheet = images.decode_image(Path("g/grid.png").read_bytes())
    rows = np.nonzero((sheet[:, :, -100:] < 200).any(axis=(0, 2)))[0]
    assert rows.max() < sheet.shape[1] - 90, "the second row is empty"


def test_headings_stay_within_their_cells() -> None:
    from ldm_core.data.images import font_for
    from ldm_core.sampling.grids.picture import _wrapped

    font = font_for([""], 14)
    for text in (
        "guidance = 3",
        "prompt = " + "a long prompt of many words " * 9,
        "x" * 300,
        "sampler = dpm_solver_pp_2m",
    ):
        lines = _wrapped(text, font, 144, 4)
        assert 1 <= len(lines) <= 4 and all(font.getlength(line) <= 144 for line in lines)
    assert _wrapped("guidance = 3", font, 144, 4) == ["guidance = 3"]
    assert " ".join(_wrapped("a prompt of six short words", font, 100, 4)) == "a prompt of six short words"


def test_values_are_told_apart_by_themselves() -> None:
    prompts = ["a" * 400 + middle + "b" * 400 for middle in "xy"]
    assert Axis.of("prompt", prompts).values == tuple(prompts)
    assert Axis.of("guidance", [0.1234567, 0.1234568]).values == (0.1234567, 0.1234568)
