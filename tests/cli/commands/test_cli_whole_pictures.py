"""``ldm-run sample RUN --image PHOTO`` of a model that enlarges pictures: whole, of any size, mode and number."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from toy_models import toy

from ldm_core.cli import main
from ldm_core.data import images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Enlarges 4x6 to 16x24."""
    return str(toy("small", tmp_path_factory.mktemp("models")))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for name, (height, width) in {"dot": (1, 1), "odd": (5, 13), "small": (4, 6), "own": (16, 24)}.items():
        Image.fromarray(picture[:height, :width]).save(f"{name}.png")
    Image.fromarray(picture[:5, :13, 0].astype(np.uint16) * 256).save("deep.png")
    Image.fromarray(np.dstack([picture, picture[..., 0]])[:5, :13]).save("clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture[:5, :13]).save("turned.png", exif=turned)


def drawn(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[list[Image.Image], str]:
    capfd.readouterr()
    assert main(["sample", *words, "--steps", "1", "--out", "made", "--force"]) == 0
    files = sorted(Path("made").glob("0*.png"))
    found: list[Image.Image] = [Image.open(io.BytesIO(file.read_bytes())) for file in files]
    for file in files:
        file.unlink()
    return found, " ".join(capfd.readouterr().err.split())


def test_each_picture_is_enlarged_whole(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    names = ("dot", "odd", "deep", "clear", "turned", "small")
    found, said = drawn(capfd, model, *(word for name in names for word in ("--image", f"{name}.png")))
    assert [one.size[::-1] for one in found] == [(4, 4), (20, 52), (20, 52), (20, 52), (52, 20), (16, 24)]
    assert "image of 5x13 enlarged whole, 4 times, to 20x52 (height x width); --size 16x24 makes it fit one" in said
    about = found[1].info
    assert about["whole"] == "5x13 enlarged whole, 4 times, to 20x52 (height x width)"
    assert (about["colour_fix"], about["adapters"]) == ("wavelet", "multidiffusion")
    assert Path("made/grid.png").is_file()


def test_a_picture_of_a_known_size_and_a_size_are_as_before(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    for words, size in (
        (["--image", "small.png"], (16, 24)),
        (["--image", "own.png"], (16, 24)),
        (["--image", "odd.png", "--size", "16x24"], (16, 24)),
        (["--image", "odd.png", "--size", "20x52"], (20, 52)),
    ):
        (one,), said = drawn(capfd, model, *words, "--images", "1")
        assert one.size[::-1] == size and "whole" not in one.info and "whole" not in said


def test_what_cannot_be_is_one_line(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("long.png").write_bytes(images.png_bytes(np.zeros((3, 1, 20000), np.uint8)))
    capfd.readouterr()
    assert main(["sample", model, "--image", "long.png", "--quiet"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: 'image' of 1x20000 (height x width) would be 4x80000") and error.count("\n") == 1
    assert main(["sample", model, "--help-inputs"]) == 0
    assert "of any other size: enlarged whole, without --size" in " ".join(capfd.readouterr().out.split())
