"""``sample`` around a faked model, and ``reconstruct`` through the identity stage: files, metadata, errors."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from ldm_core import storage
from ldm_core.cli import main
from ldm_core.cli.commands.reconstruct import fitted, psnr
from ldm_core.cli.inputs import read_prompts, read_seeds, read_size
from ldm_core.cli.samples.output import file_name
from ldm_core.contracts.values import LatentSpec
from ldm_core.data import images
from ldm_core.errors import ConfigError, DataError, Interrupted, PromptWarning, StorageError
from ldm_core.sampling.picture_folder import PictureFolder


class _Pipeline:
    """A model that reads captions and classes and paints its seed."""

    palettes: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        part = SimpleNamespace(config=SimpleNamespace(reads=("caption", "class_label"), classes=0), name="both")
        data = SimpleNamespace(fit="crop")
        stage = SimpleNamespace(config=SimpleNamespace(latent=LatentSpec(3, (2, 2))))
        self.recipe = SimpleNamespace(
            conditioners=[part],
            first_stage=stage,
            denoiser=SimpleNamespace(config=SimpleNamespace()),
            image_channels=3,
            image_size=(8, 8),
            data=data,
            reads=("caption", "class_label"),
            inputs=("caption", "class_label"),
            guidances=(),
            sample=SimpleNamespace(images=2, seed=5, batch=1),
        )
        self.class_names = {"class_label": ("cat", "dog")}
        self.weights = "5" * 64
        self.called: dict[str, Any] = {}
        self.settings: list[str] = []
        self.fails_at: int | None = None
        self.lacks: int | None = None  # a seed
        self.error: BaseException = KeyboardInterrupt()

    def with_settings(self, settings: list[str]) -> _Pipeline:
        self.settings = settings
        return self

    def stream(self, prompts: list[str] | None, *, callback: Any, **options: Any) -> Iterator[list[Any]]:
        self.called = {"prompts": prompts, **options}
        text = "the prompt is longer than conditioner 'text' takes; cut off: 'and so on'"
        if prompts and "long" in prompts[0]:
            warnings.warn(text, PromptWarning, stacklevel=2)
        for step in (1, 2):
            callback(SimpleNamespace(step=step, steps=2, images=0, total=2))
        prompts = prompts or [""]
        first, count = options["seed"] or 5, options["images"] or len(prompts)
        for i, seed in enumerate(first if isinstance(first, list) else range(first, first + count)):
            if i == self.fails_at:
                raise self.error
            if seed == self.lacks:
                continue
            about = {"prompt": prompts[i % len(prompts)], "seed": str(seed), "class_label": "dog (1)"}
            image = np.full((3, 8, 8), seed % 256, np.uint8)
            yield [SimpleNamespace(image=image, prompt=prompts[i % len(prompts)], seed=seed, metadata=about)]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Pipeline:
    module = pytest.importorskip("ldm_core.sampling.pipeline", reason="torch is not installed")
    made = _Pipeline()

    def load(url: str, *, device: str | None = None, precision: str = "fp32", **_: Any) -> _Pipeline:
        made.called = {"url": url, "device": device}
        return made

    monkeypatch.setattr(module.Pipeline, "load", load)
    # what another program's conventions would be is asked of a whole recipe, which the stand-in has none of
    monkeypatch.setattr("ldm_core.cli.commands.sample._say_sampling", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return made


def test_files_and_metadata(pipeline: _Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sample", "run", "--prompt", "a red circle", "--class", "dog", "--seeds", "7,200", "--out", "here"]
    assert main([*line, "--guidance", "2.5", "--steps", "3", "--batch", "4", "--sampler", "ddpm"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "here/0000-seed7-a-red-circle.png",
        "here/0001-seed200-a-red-circle.png",
        "here/grid.png",
    ]
    assert "samples: 2 steps" in err
    data = Path("here/0001-seed200-a-red-circle.png").read_bytes()
    assert images.png_metadata(data) == {
        "prompt": "a red circle",
        "seed": "200",
        "class_label": "dog (1)",
    }
    assert (images.decode_image(data) == 200).all()
    assert images.decode_image(Path("here/grid.png").read_bytes()).shape[0] == 3
    assert pipeline.called == {
        "prompts": ["a red circle"],
        "inputs": {"class_label": 1},
        "images": None,
        "steps": 3,
        "guidance": 2.5,
        "negative": None,
        "start": None,
        "seed": [7, 200],
        "batch": 4,
    }
    assert pipeline.settings == ["sampler.use=ddpm"]


def test_guidance_by_name_and_negatives(pipeline: _Pipeline) -> None:
    line = ["sample", "run", "--prompt", "one", "--class", "cat", "--quiet"]
    assert main([*line, "--guidance", "cfg", "--negative", "a", "--negative", "b"]) == 0
    assert pipeline.settings == ["guidance.use=cfg"]
    assert (pipeline.called["guidance"], pipeline.called["negative"]) == (None, ["a", "b"])
    assert main([*line, "guidance.rescale=0.7", "--guidance", "2", "trainer.lr=1"]) == 0
    assert pipeline.settings == ["guidance.rescale=0.7", "trainer.lr=1"], "a run's model: all of it is held to sampling"
    assert pipeline.called["guidance"] == 2.0


def test_json(pipeline: _Pipeline, capfd: pytest.CaptureFixture[str]) -> None:
    Path("p.txt").write_text("one\n\n  two  \n")
    assert main(["sample", "run", "--prompts", "p.txt", "--class", "1", "--seed", "5", "--json", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {
        "status": "done",
        "out": "samples",
        "grid": "samples/grid.png",
        "weights_sha256": "5" * 64,
        "images": [
            {"path": "samples/0000-seed5-one.png", "prompt": "one", "seed": 5, "class_label": "dog (1)"},
            {"path": "samples/0001-seed6-two.png", "prompt": "two", "seed": 6, "class_label": "dog (1)"},
        ],
    }
    assert err == ""


def test_a_prompt_that_is_too_long(pipeline: _Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sample", "run", "--prompt", "a long one", "--class", "cat"]
    assert main([*line, "--quiet"]) == 0
    told = "the prompt is longer than conditioner 'text' takes; cut off: 'and so on'"
    assert capsys.readouterr().err == f"warning: {told}\n"
    assert main([*line, "--strict", "--out", "strict"]) == 2
    assert capsys.readouterr().err == f"error: {told}\n"
    assert not Path("strict").exists(), "nothing is written where the command fails"


@pytest.mark.parametrize(
    "line, said",
    [
        (["--input", "palette=[1]"], "input 'palette': nothing reads it (the conditioners read: caption, class_label)"),
        (["--class", "horse"], "class_label: no class named 'horse' (known: cat, dog)"),
        (["--class", "2"], "class_label: no class 2; there are 2 (0 to 1)"),
        (["--seeds", "1,x"], "--seeds 1,x: expected whole numbers such as 1,2,3 or a range such as 7..10"),
        (["--prompts", "none.txt"], "cannot read none.txt: no such file or folder; check the spelling"),
    ],
)
def test_errors(pipeline: _Pipeline, capsys: pytest.CaptureFixture[str], line: list[str], said: str) -> None:
    assert main(["sample", "run", *line]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not Path("samples").exists()


def test_seeds() -> None:
    assert read_seeds(None) is None
    assert read_seeds("3, 1,2") == [3, 1, 2]
    assert read_seeds("7..9,2") == [7, 8, 9, 2]
    for text in ("", "1,", "-1", "9..7", "0..9999999", "1.5", "a..b"):
        with pytest.raises(ConfigError):
            read_seeds(text)


def test_a_prompt_file_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="holds no prompt; write one a line"):
        read_prompts(str(tmp_path / "p.txt"))


def test_file_names_are_plain() -> None:
    assert file_name(3, 7, "A red circle, left!") == "0003-seed7-a-red-circle-left.png"
    assert file_name(0, 1, "") == "0000-seed1.png"
    assert file_name(0, 1, "../../etc/passwd") == "0000-seed1-etc-passwd.png"
    assert len(file_name(0, 1, "word " * 100)) < 60


def test_psnr() -> None:
    """10 log10(255² / mean squared error), by hand: an error of 5 everywhere is 34.15 dB."""
    a = np.full((3, 4, 4), 100, np.uint8)
    assert psnr(a, a + np.uint8(5)) == pytest.approx(34.1514, abs=1e-4)
    assert psnr(a, a) == float("inf")


def test_pictures_are_brought_to_the_stride() -> None:
    picture = np.arange(3 * 10 * 13, dtype=np.uint8).reshape(3, 10, 13)
    assert fitted(picture, None, (4, 4), "p").tolist() == picture[:, 1:9, 0:12].tolist()
    assert fitted(picture, (16, 8), (4, 4), "p").shape == (3, 16, 8)
    with pytest.raises(ConfigError, match="10x13 pixels are fewer than the first stage's factor 16"):
        fitted(picture, None, (16, 16), "p")
    with pytest.raises(ConfigError, match="not divisible by the first stage's factor 4"):
        fitted(picture, (10, 8), (4, 4), "p")
    assert (read_size("64"), read_size("48,64"), read_size("48x64"), read_size(None)) == (
        (64, 64),
        (48, 64),
        (48, 64),
        None,
    )
    for text in ("", "0", "1,2,3", "a"):
        with pytest.raises(ConfigError):
            read_size(text)


def test_reconstruct_without_a_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(images.png_bytes(np.zeros((3, 8, 8), np.uint8)))
    assert main(["reconstruct", str(tmp_path / "none"), str(tmp_path / "a.png")]) == 2
    assert "none: no such file or folder; give a .safetensors file or a run's folder" in capsys.readouterr().err


def test_a_run_that_stopped_early_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    assert main(["sample", str(tmp_path / "begun")]) == 2
    said = "begun: holds no model.safetensors yet; training with the run's settings goes on where it stopped"
    assert said in capsys.readouterr().err


LINE = ("sample", "run", "--prompt", "one", "--class", "cat", "--quiet")


def _held(folder: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def test_each_sampling_has_a_folder_of_its_own(pipeline: _Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LINE]) == 0
    first = _held("samples")
    Path("samples-2").mkdir()  # an empty one may be another command's, which has not begun to write
    Path("samples-3").write_text("a file of the user's")
    assert main([*LINE, "--seed", "9"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "samples-4/grid.png"
    assert _held("samples") == first and Path("samples-3").read_text() and not _held("samples-2")


def test_of_many_at_once_each_gets_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        taken = [f.url for f in pool.map(lambda _: PictureFolder.take(None, "samples", ()), range(16))]
    assert len(set(taken)) == 16 and "samples" in taken and "samples-16" in taken


@pytest.mark.parametrize("name", ["0000-seed5-one.png", "0001-seed6-one.png", "grid.png"])
@pytest.mark.parametrize("out", ["mine", "memory://mine"])
def test_no_file_in_the_way_is_overwritten(
    pipeline: _Pipeline, capsys: pytest.CaptureFixture[str], name: str, out: str
) -> None:
    storage.atomic_write(f"{out}/{name}", "the user's")
    storage.atomic_write(f"{out}/notes.txt", "the user's")
    code = main([*LINE, "--images", "2", "--out", out])
    assert storage.read_text(f"{out}/{name}") == storage.read_text(f"{out}/notes.txt") == "the user's"
    if name == "grid.png":
        assert code == 0 and storage.exists(f"{out}/grid-2.png"), "the sheet takes the next name"
        assert main([*LINE, "--images", "2", "--out", out]) == 2, "the first sampling's files"
    else:
        assert code == 2 and "prompts" not in pipeline.called, "found before anything is sampled"
        assert f"holds {name} already; give another folder, or --force" in capsys.readouterr().err
        assert main([*LINE, "--images", "2", "--out", out, "--force"]) == 0
        assert storage.read_text(f"{out}/notes.txt") == "the user's"
    storage.remove(out, recursive=True)


@pytest.mark.parametrize(
    "error, code, said",
    [
        (KeyboardInterrupt(), 130, "interrupted: 2 of 4 pictures are finished and lie in s; the same command"),
        (StorageError("cannot write s/x.png: the disk is full"), 2, "2 of 4 pictures are finished and lie in s\nerror"),
        (DataError("not finite"), 2, "2 of 4 pictures are finished and lie in s\nerror: not finite"),
        (MemoryError(), 2, "error: memory does not suffice for 1 images at once; set --batch (2 of 4 pictures"),
        (Interrupted("cancelled"), 130, "2 of 4 pictures are finished and lie in s\ninterrupted: cancelled"),
    ],
    ids=["ctrl-c", "full", "data", "memory", "cancelled"],
)
def test_what_is_finished_stays(
    pipeline: _Pipeline, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    pipeline.fails_at, pipeline.error = 2, error
    assert main([*LINE, "--images", "4", "--out", "s"]) == code
    assert said in capsys.readouterr().err
    assert list(_held("s")) == ["0000-seed5-one.png", "0001-seed6-one.png", "grid.png"]
    grid = images.decode_image(_held("s")["grid.png"])
    assert grid.shape[2] < 300, "two cells of 128 pixels"
    assert images.png_metadata(_held("s")["0001-seed6-one.png"])["seed"] == "6"


def test_files_are_named_by_the_seeds_that_came(pipeline: _Pipeline) -> None:
    """Of a batch in which one image was not finite the others are written, under their own names."""
    pipeline.lacks = 6
    assert main([*LINE, "--images", "3", "--out", "s"]) == 0
    assert list(_held("s")) == ["0000-seed5-one.png", "0002-seed7-one.png", "grid.png"]


def test_a_sampling_that_finishes_nothing_leaves_nothing(
    pipeline: _Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.fails_at = 0
    assert main([*LINE, "--json"]) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "interrupted" and "no picture was finished" in err
    assert not Path("samples").exists()


@pytest.mark.parametrize("out", ["file", "file/below", "https://host.invalid/x", "locked/x", "deep/file/x"])
def test_a_place_that_cannot_be_written_is_found_first(
    pipeline: _Pipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    Path("file").write_text("")
    Path("deep").mkdir()
    Path("deep/file").write_text("")
    if out.startswith("locked"):  # as a user without rights finds it; root may write anywhere
        monkeypatch.setattr(storage, "create", _refused)
    assert main([*LINE, "--out", out]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot ") and len(err.splitlines()) == 1
    assert "prompts" not in pipeline.called


def _refused(url: str, data: bytes) -> bool:
    raise StorageError(f"cannot write {url}: permission denied")


def test_prompts_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(data: bytes) -> str:
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        return f"/dev/fd/{reading}"

    assert read_prompts(piped("a cat\n\nü 猫\r\n".encode())) == ["a cat", "ü 猫"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n")))
    assert read_prompts("-") == ["a dog"]
    for data, why in ((b"caf\xe9", "UTF-8"), (b"\n", "holds no prompt")):
        with pytest.raises(ConfigError, match=why):
            read_prompts(piped(data))
    with pytest.raises(ConfigError, match="does not read"):
        read_prompts("/dev/fd/987654")
