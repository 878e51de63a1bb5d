"""Pictures, masks, maps, classes and sizes on the command line: to whom they go, and one clear line for each misuse."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from toy_models import toy

from ldm_core.cli import main
from ldm_core.data import images
from ldm_core.data.inputs import masks
from ldm_core.errors import ConfigError, DataError
from ldm_core.sampling.image_to_image import Start
from ldm_core.sampling.pipeline import Pipeline

BOX = "[0.25, 0.25, 0.5, 0.5]"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {word: toy(word, place) for word in ("none", "class", "layout", "map", "small", "hole")}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with some pictures in it."""
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(picture).save("photo.png")
    Image.fromarray(picture[::2, ::2]).save("other.png")
    Image.fromarray(picture[:4, :6]).save("small.png")
    hole = np.zeros((16, 24), np.uint8)
    hole[4:12, 6:18] = 255
    Image.fromarray(hole).save("hole.png")
    Image.fromarray(hole[:8]).save("half.png")
    Image.fromarray(hole * 0).save("empty.png")
    Image.fromarray(hole * 0 + 255).save("full.png")
    Image.fromarray(hole // 255 * 7).save("map7.png")
    Image.fromarray(np.dstack([picture, hole])).save("alpha.png")
    Image.fromarray(np.dstack([hole, hole, hole, hole])).save("drawn.png")
    Image.fromarray(picture).convert("LAB").save("lab.tif")
    Image.fromarray(np.where(hole, np.nan, 0.5).astype(np.float32)).save("float.tif")
    Path("words.png").write_text("no picture")


def sampled(*words: str, out: str = "made") -> list[np.ndarray]:
    assert main(["sample", *words, "--quiet", "--steps", "2", "--out", out]) == 0
    return [images.decode_image(path.read_bytes()) for path in sorted(Path(out).glob("0*.png"))]


def test_a_picture_goes_to_the_conditioner_that_reads_one(models: dict[str, Path]) -> None:
    pipeline = Pipeline.load(models["small"])
    with Image.open("small.png") as small:
        (same,) = pipeline.sample(inputs={"image": small.copy()}, images=1, steps=2)
    (found,) = sampled(str(models["small"]), "--image", "small.png", "--images", "1")
    assert (found == same.image).all()
    picture = images.decode_image(Path("small.png").read_bytes())
    start = Start.image(Image.open("small.png"), strength=0.5)
    begun = pipeline.sample(inputs={"image": picture}, images=1, steps=2, start=start)
    (found,) = sampled(str(models["small"]), "--image", "small.png", "--strength", "0.5", "--images", "1", out="begun")
    assert (found == begun[0].image).all() and not (found == same.image).all(), "with a strength it is begun from, too"


def test_a_picture_is_begun_from_where_none_reads_it(models: dict[str, Path]) -> None:
    pipeline = Pipeline.load(models["none"])
    same = pipeline.sample(images=1, steps=2, start=Start.image(Image.open("photo.png")))[0]
    (found,) = sampled(str(models["none"]), "--image", "photo.png", "--images", "1")
    assert (found == same.image).all() and same.metadata["strength"] == "0.75"


def test_several_pictures_and_masks_are_gone_through_in_turn(models: dict[str, Path]) -> None:
    words = ["--image", "photo.png", "--image", "other.png", "--mask", "[0, 0, 0.5, 1]", "--mask", "[0.5, 0, 0.5, 1]"]
    found = sampled(str(models["hole"]), *words, "--images", "3")
    photo = images.decode_image(Path("photo.png").read_bytes())
    assert (found[0][:, :, 12:] == photo[:, :, 12:]).all() and not (found[0][:, :, :12] == photo[:, :, :12]).all()
    assert (found[2][:, :, 12:] == photo[:, :, 12:]).all() and not (found[1][:, :, :12] == photo[:, :, :12]).all()
    sheet = images.decode_image(Path("made/grid.png").read_bytes())
    assert sheet.shape[2] == 12 + 2 * (3 * 144 + 2 * 2 + 12), "input, mask and fill side by side"


def test_a_picture_given_twice_is_two(models: dict[str, Path]) -> None:
    words = [word for name in ("photo", "photo", "other") for word in ("--image", f"{name}.png")]
    found = sampled(str(models["hole"]), *words, "--mask", "[0, 0, 0.5, 1]", "--images", "3")
    photo = images.decode_image(Path("photo.png").read_bytes())[:, :, 12:]
    assert [bool((each[:, :, 12:] == photo).all()) for each in found] == [True, True, False]


def test_drawn_boxes_are_masks() -> None:
    drawn = masks.of_boxes([[0.25, 0.25, 0.5, 0.5]], (16, 24))
    assert (drawn == np.asarray(Image.open("hole.png"))).all()
    assert (masks.of_boxes([[0, 0, 1, 1]], (3, 5)) == 255).all()
    assert (masks.of_boxes([[0.5, 0.5, 0.001, 0.001]], (3, 5)) == 255).sum() == 1, "a thin one is a pixel"
    two = masks.of_boxes([[0, 0, 0.5, 1], [0.5, 0, 0.5, 1]], (4, 7))
    assert (two == 255).all(), "boxes that meet leave no gap"
    assert masks.holes(np.array([[0, 1, 2]])).tolist() == [[False, False, False]], "grey levels"
    assert masks.holes(np.array([[0, 1, 1]])).tolist() == [[False, True, True]], "classes"
    assert masks.holes(np.array([[0.4, 0.5]])).tolist() == [[False, True]]


@pytest.mark.parametrize("mask", [BOX, f"[{BOX}]", "hole.png"])
def test_a_mask_as_a_file_or_a_box(models: dict[str, Path], mask: str) -> None:
    (found,) = sampled(str(models["hole"]), "--image", "photo.png", "--mask", mask, "--images", "1")
    pipeline = Pipeline.load(models["hole"])
    inputs = {"image": Image.open("photo.png"), "mask": Image.open("hole.png")}
    assert (found == pipeline.sample(inputs=inputs, images=1, steps=2)[0].image).all()


def test_a_size(models: dict[str, Path]) -> None:
    found = sampled(str(models["map"]), "--segmentation", "[[0, 1], [2, 255]]", "--size", "32x48", "--images", "1")
    assert found[0].shape == (3, 32, 48)
    assert sampled(str(models["none"]), "--size", "20", "--images", "1", out="square")[0].shape == (3, 20, 20)


HOLE = ["--image", "photo.png", "--mask"]
MISUSES: list[tuple[str, list[str], str]] = [
    ("hole", [*HOLE, "half.png"], "the mask is 8x24 and the picture 16x24 (height x width); give both at one size"),
    ("hole", [*HOLE, "empty.png"], "mask empty.png: is empty at 16x24, so that nothing is to be filled; holes are"),
    ("hole", [*HOLE, "[0.5, 0.5, 0.6, 0.1]"], "--mask: box 0: [0.5, 0.5, 0.6, 0.1] leaves the picture; x, y, w, h are"),
    ("hole", [*HOLE, "[1, 2]"], "--mask [1, 2]: expected a picture, or a box [x, y, w, h] or a list of boxes"),
    ("hole", [*HOLE, "drawn.png"], "drawn.png: a mask with transparent pixels"),
    ("hole", ["--image", "photo.png"], "this model needs a mask (key 'mask', read by conditioner 'masked_image'; white "
     "where the picture is to be filled): give --mask FILE.png"),
    ("hole", ["--mask", BOX], "this model needs a picture (key 'image', read by conditioner 'masked_image'): give "
     "--image PICTURE"),
    ("hole", [*HOLE, BOX, "--input", "mask=@hole.png"], "'mask' is given twice"),
    ("hole", ["--image", "photo.png", "--input", "mask=5"], "mask: expected a picture, or rows of numbers of one"),
    ("none", ["--mask", BOX], "this model needs a picture (key 'image', read by guidance 'blend'): give --image"),
    ("class", ["--class", "dgo"], "class_label: no class named 'dgo'; did you mean 'dog'? (known: cat, dog, red fox)"),
    ("class", ["--class", "3"], "class_label: no class 3; there are 3 (0 to 2)"),
    ("class", [], "this model needs a class (key 'class_label', read by conditioner 'class_label'; a name or a number, "
     "0 to 2): give --class NAME"),
    ("class", ["--class", "cat", "--input", "class_label=dog"], "'class_label' is given twice, by --input"),
    ("layout", ["--boxes", '{"boxes": [[0.5, 0, 0.6, 1]], "labels": [0]}'], "boxes[0]: [0.5, 0, 0.6, 1] leaves the"),
    ("layout", ["--boxes", '{"boxes": [[0, 0, 1, 1]], "labels": ["moon"]}'], "box_labels: no class named 'moon'"),
    ("layout", ["--boxes", '{"boxes": [[0, 0, 1, 1]], "labels": [9]}'], "box_labels: no class 9; there are 4 (0 to 3)"),
    ("layout", ["--boxes", "[[0, 0, 1, 1]]"], "this model needs the classes of the boxes (key 'box_labels'"),
    ("map", ["--segmentation", "map7.png"], "has the label 7; allowed: 0 to 2 (3 classes) and 255 for unlabeled"),
    ("map", ["--segmentation", "photo.png"], "segmentation: a label map in colour, such as"),
    ("map", ["--segmentation", "alpha.png"], "alpha.png: a label map with transparent pixels"),
    ("map", ["--segmentation", "lab.tif"], "segmentation: a label map in colour, such as"),
    ("map", ["--segmentation", "float.tif"], "of the 384 levels of a floating-point picture are not finite"),
    ("small", ["--image", "float.tif"], "of the 384 levels of a floating-point picture are not finite"),
    ("none", ["--image", "words.png"], "words.png: not a picture (begins with b'no picture')"),
    ("map", ["--segmentation", "[[0, 1], [2]]"], "--segmentation [[0, 1], [2]]: expected a PNG, or rows of whole"),
    ("small", ["--image", "small.png", "--size", "18x24"],
     "image size 18 is not divisible by the first stage's factor 4; use a multiple such as 16"),
    ("small", ["--image", "nosuch.png"], "nosuch.png: no such file"),
    ("none", ["--size", "16by24"], "--size 16by24: expected pixels such as 64, or height x width such as 48x64"),
    ("none", ["--size", "16x24", "image_size=16"], "--size and image_size= both say how large the images are"),
    ("none", ["--strength", "0.5"], "strength=0.5 is for a run that begins from a picture; give one with --image"),
]  # fmt: skip


@pytest.mark.parametrize("word, words, said", MISUSES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISUSES)])
def test_misuse_is_one_line(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], word: str, words: list[str], said: str
) -> None:
    assert main(["sample", str(models[word]), *words, "--images", "1", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not Path("samples").exists()


def test_a_full_mask_is_noted(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(models["hole"]), *HOLE, "full.png", "--images", "1", "--quiet"]) == 0
    told = "mask full.png: covers the whole picture at 16x24, so that nothing of it is kept\n"
    assert capsys.readouterr().err == f"warning: {told}"


def test_pictures_in_python(models: dict[str, Path]) -> None:
    pipeline = Pipeline.load(models["hole"])
    photo, half = Image.open("photo.png"), Image.open("half.png")
    with pytest.raises(DataError, match=r"'image' is 16x24 but 'mask' is 8x24 \(height x width\); they must match"):
        pipeline.sample(inputs={"image": photo, "mask": half})
    with pytest.raises(DataError, match=r"inputs\['mask'\]: a mask with transparent pixels"):
        pipeline.sample(inputs={"image": photo, "mask": Image.open("drawn.png")})
    with pytest.raises(ConfigError, match=r"inputs\['image'\]: expected an array .* or a PIL image, got 'photo"):
        pipeline.sample(inputs={"image": "photo.png", "mask": half})
    with pytest.raises(TypeError, match=r"takes no 'image' any more; give start=.* or inputs=\{'image': picture\}"):
        pipeline.sample(image=photo)  # type: ignore[call-arg]
    large = io.BytesIO()
    photo.resize((96, 64)).convert("P").save(large, "PNG")
    inputs: dict[str, Any] = {"image": Image.open(large), "mask": Image.open("hole.png").resize((96, 64))}
    assert pipeline.sample(inputs=inputs, steps=1, images=1)[0].image.shape == (3, 16, 24)
