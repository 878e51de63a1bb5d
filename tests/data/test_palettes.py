"""Label maps in colour: palettes in every form, the readers, a model's header, and what is refused in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_runs import go

import ldm_core
from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.cli import main
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.mixture import Mixture
from ldm_core.data.palettes import Palette, input_classes, palette_of, read_palette
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError
from ldm_core.recipe import artifacts
from ldm_core.training import workflow

COLOURS = [(128, 64, 128), (0, 0, 0), (250, 170, 30)]
NAMES = ("road", "void space", "light")
MAP = np.array([[0, 1, 2, 2], [0, 0, 255, 1]])
"""Classes; 255 is none."""
WHITE = (255, 255, 255)


def png(array: Any, mode: str | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(np.asarray(array, dtype=np.uint8))
    (picture if mode is None else picture.convert(mode)).save(out, format="PNG", **options)
    return out.getvalue()


def coloured(labels: np.ndarray = MAP) -> np.ndarray:
    table = np.array([*COLOURS, WHITE], dtype=np.uint8)
    return table[np.where(labels == 255, 3, labels)]


def indexed(labels: np.ndarray, colours: list[tuple[int, int, int]]) -> bytes:
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette([n for colour in colours for n in colour])
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()


FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "list": (json.dumps([list(c) for c in COLOURS]), ()),
    "names": (json.dumps(dict(zip(NAMES, map(list, COLOURS), strict=True))), NAMES),
    "objects": (
        json.dumps([{"id": i, "name": n, "color": list(c)} for i, (n, c) in enumerate(zip(NAMES, COLOURS, strict=True))]
                   + [{"id": 255, "color": [255, 255, 255], "name": "nothing"}]), NAMES),
    "hexadecimal": (json.dumps(dict(zip(NAMES, ("#804080", "#000000", "#FAAA1E"), strict=True))), NAMES),
    "lines": ("# the classes\n128 64 128 road\n0,0,0\tvoid space\n\n250 170 30 light\n", NAMES),
    "numbered lines": ("2 250 170 30 light\n0 128 64 128 road\n1 0 0 0 void space\n255 255 255 255\n", NAMES),
    "hexadecimal lines": ("#804080 road\n#000000 void space\n#faaa1e light", NAMES),
    "bare lines": ("128 64 128\n0 0 0\n250 170 30\n", ()),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_palette(form: str) -> None:
    text, names = FORMS[form]
    palette = read_palette(text.encode(), "palette")
    assert palette.names == names and palette.count == 3
    known = {(r, g, b): n for r, g, b, n in palette.rows}
    assert [known[colour] for colour in COLOURS] == [0, 1, 2]
    if WHITE in known:
        assert palette.classes(coloured(), "map").tolist() == MAP.tolist()
    with_void = palette_of([*palette.rows, (*WHITE, 255)] if WHITE not in known else palette.rows)
    assert with_void.classes(coloured(), "map").tolist() == MAP.tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[1, 2]]", r"\[1, 2\] is no colour; expected"),
        ("[[1, 2, 300]]", "is no colour of a class: three numbers from 0 to 255"),
        ("[[1, 2, true]]", "is no colour of a class"),
        ("[[1, 2, 3], [1, 2, 3]]", r"the colour \(1, 2, 3\) is of two classes, 0 and 1"),
        ('[{"id": 0, "color": [0, 0, 0]}, {"id": 2, "color": [1, 1, 1]}]', "has no colour of class 1, and one of 2"),
        ('[{"id": "x", "color": [0, 0, 0]}]', "expected .*name"),
        ('[{"id": 0, "color": [0, 0, 0]}, [1, 1, 1]]', "some colours have an id and others none"),
        ("[]", "holds 0 classes"),
        ("5", "line 1: '5' is no colour"),
        ("red", "line 1: 'red' is no colour"),
        ("999999999999 1 2", "is no colour of a class"),
        ("0 0 0 a\n1 1 1 a", "a name is of two classes"),
        ("[" * 90 + "]" * 90, "nested too deeply"),
        ("\xff\xfe", "expected"),
    ],
)
def test_what_is_no_palette_is_one_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_palette(text.encode("latin-1"), "palette.json")
    assert str(caught.value).startswith("palette.json") and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="at most"):
        read_palette(b"[" + b" " * (5 << 20), "palette.json")


def test_maps_of_every_mode() -> None:
    palette = palette_of([*((*c, i) for i, c in enumerate(COLOURS)), (*WHITE, 255)], NAMES)
    plain = np.where(MAP == 255, 255, MAP)
    for data in (
        png(coloured()),
        png(coloured(), "RGBA"),
        indexed(np.where(MAP == 255, 3, MAP), [*COLOURS, WHITE]),
        indexed(np.where(MAP == 255, 0, MAP + 1), [WHITE, *COLOURS]),  # in an order of its own
        png(plain),  # numbers stay numbers
        indexed(plain, [(i, i, i) for i in range(256)]),
    ):
        assert images.decode_labels(data, "map", palette).tolist() == MAP.tolist()
    with pytest.raises(
        DataError,
        match=r"map: 1 pixels of colours .* such as \(9, 9, 9\) at x=3, y=1 \(nearest: \(0, 0, 0\), class void",
    ):
        odd = coloured()
        odd[1, 3] = 9
        images.decode_labels(png(odd), "map", palette)
    with pytest.raises(DataError, match=r"in colour, such as \(128, 64, 128\).*dataset.palette=palette.json"):
        images.decode_labels(png(coloured()), "map")
    assert images.decode_labels(png(coloured()), "map", colours=True).shape == (3, 2, 4)


def folder(base: Path, palette: str | None = None, count: int = 4, **settings: Any) -> FolderDataset:
    base.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (base / f"{i}.png").write_bytes(png(np.full((2, 4, 3), 10 * i)))
        (base / f"{i}.seg.png").write_bytes(png(coloured()))
    if palette is not None:
        (base / "palette.txt").write_text(palette)
        settings["palette"] = "palette.txt"
    return FolderDataset(FolderConfig(url=str(base), **settings), Site(size=(16, 16)))


LINES = FORMS["numbered lines"][0]


def test_a_folder_with_a_palette(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", LINES)
    assert data.classes == {"segmentation": 3} and data.class_names == {"segmentation": NAMES}
    assert data[1]["segmentation"].tolist() == MAP.tolist()
    assert palette_of(data.palettes["segmentation"]).count == 3 and data.select(["image"]).palettes == {}
    before = data.fingerprint()
    assert folder(tmp_path / "a", LINES.replace("light", "lamp")).fingerprint() != before
    plain = folder(tmp_path / "b")
    with pytest.raises(BadExample, match=r"0.png: segmentation: a label map in colour, such as .*dataset.palette"):
        _ = plain.select(["segmentation"])[0]
    with pytest.raises(DataError, match=r"dataset.palette: no file 'nothing.json' beside the data"):
        FolderDataset(FolderConfig(url=str(tmp_path / "b"), palette="nothing.json"), Site(size=(16, 16)))
    lacking = folder(tmp_path / "c", "128 64 128 road\n0 0 0 void\n255 255 255 sky\n")
    with pytest.raises(BadExample, match=r"such as \(250, 170, 30\)"):
        _ = lacking[0]


def test_a_mixture_keeps_the_colours_under_its_own_classes(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", LINES), folder(tmp_path / "b", "250 170 30 light\n128 64 128 road\n0 0 0 sky\n")
    (tmp_path / "b").joinpath("0.seg.png").write_bytes(png(coloured(np.minimum(MAP, 2))))
    data = Mixture([("a", one, None), ("b", other, None)])
    assert data.palettes == {}  # black is void space here and sky there
    same = Mixture([("a", one, None), ("b", folder(tmp_path / "c", LINES), None)])
    assert palette_of(same.palettes["segmentation"]).classes(coloured(), "map").tolist() == MAP.tolist()


def test_inputs_in_colour() -> None:
    palette = Palette(tuple((*c, i) for i, c in enumerate([*COLOURS, WHITE])))
    for value in (coloured(), np.moveaxis(coloured(), -1, 0)):
        assert input_classes(value, palette, "segmentation").tolist() == np.where(MAP == 255, 3, MAP).tolist()
        with pytest.raises(DataError, match=r"segmentation: a label map in colour, .* and this model has no palette"):
            input_classes(value, None, "segmentation")
    assert input_classes(MAP, None, "segmentation") is MAP
    grey = np.stack([MAP] * 3)
    assert input_classes(grey, None, "segmentation").tolist() == MAP.tolist()


def test_a_model_keeps_the_palette_of_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained on maps in colour: its header has the palette, and sampling takes colours and numbers alike."""
    folder(tmp_path / "data", LINES)
    data = {"use": "folder", "url": str(tmp_path / "data"), "palette": "palette.txt"}
    go(tmp_path / "run", "trainer.steps=1", dataset=data, conditioners=["semantic_map"])
    header = artifacts.read_header(str(tmp_path / "run" / "model.safetensors"), "model")
    assert sorted(header.extra["palettes"]["segmentation"]) == [
        [0, 0, 0, 1], [128, 64, 128, 0], [250, 170, 30, 2], [255, 255, 255, 255]
    ]  # fmt: skip
    pipeline = ldm_core.load(str(tmp_path / "run"))
    large = np.kron(MAP, np.ones((8, 4))).astype(np.int64)
    by_number = pipeline.sample(inputs={"segmentation": large}, seed=3, steps=2)
    by_colour = pipeline.sample(inputs={"segmentation": coloured(large)}, seed=3, steps=2)
    assert np.array_equal(by_number[0].image, by_colour[0].image)
    (tmp_path / "map.png").write_bytes(png(coloured(large)))
    argv = ["sample", str(tmp_path / "run"), "--segmentation", str(tmp_path / "map.png"), "--steps", "2", "--quiet"]
    assert main([*argv, "--seeds", "3", "--out", str(tmp_path / "out")]) == 0
    drawn = next(p for p in (tmp_path / "out").iterdir() if p.name.startswith("0"))
    assert np.array_equal(images.decode_image(drawn.read_bytes()), by_number[0].image)
    capsys.readouterr()
    for array, said in (
        (np.full((16, 16, 3), (1, 2, 3)), "256 pixels of colours that the palette does not have"),
        (np.full((16, 16), 7), "has the label 7; allowed: 0 to 2 (3 classes) and 255"),
    ):
        (tmp_path / "map.png").write_bytes(png(array))
        assert main([*argv, "--out", str(tmp_path / "none")]) == 2
        told = capsys.readouterr().err
        assert said in " ".join(told.split()) and "Traceback" not in told


def test_a_run_takes_a_map_in_colour_beside_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours become classes before the map is fitted, whose borders are no class and no colour of the list."""
    seen: list[Any] = []

    def stop(*_: Any, inputs: Any, **__: Any) -> None:
        seen.extend(inputs.rows)
        raise DataError("far enough")

    monkeypatch.setattr(workflow, "run", stop)
    labels = np.where(MAP == 255, 0, MAP)
    folder(tmp_path / "data", "".join(f"{r} {g} {b} {name}\n" for (r, g, b), name in zip(COLOURS, "xyz", strict=True)))
    for i in range(4):
        (tmp_path / "data" / f"{i}.seg.png").write_bytes(png(coloured(labels)))
    (tmp_path / "map.png").write_bytes(png(coloured(labels)))
    parts = ["--data", str(tmp_path / "data"), "--first-stage", "identity", "--cond", "semantic_map"]
    settings = ["image_size=16", "data.fit=pad", "dataset.palette=palette.txt"]
    argv = [*parts, "--segmentation", str(tmp_path / "map.png"), *settings, "--out", str(tmp_path / "out")]
    assert main([*argv, "--quiet"]) == 2 and len(seen) == 1
    found = seen[0]["segmentation"]
    assert (found[:4] == 255).all() and (found[-4:] == 255).all()
    assert found[4:12].tolist() == np.kron(labels, np.ones((4, 4), dtype=int)).tolist()
