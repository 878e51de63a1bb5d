"""A run and other people's files in its folder: none is deleted or overwritten, and it goes on with its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import Watch, go

from ldm_core import storage
from ldm_core.cli import main
from ldm_core.data import images
from ldm_core.errors import ConfigError, Interrupted, StorageError
from ldm_core.sampling.result import Sampled
from ldm_core.training.folder.own_files import FILE, OwnFiles

PICTURE = images.png_bytes(np.full((3, 8, 8), 7, np.uint8))
STAGES = ("first_stage", "latents", "denoiser", "samples")
USED = [
    "recipe.yaml", "metrics.jsonl", "bad_examples.txt", "first_stage.safetensors", "model.safetensors",
    "reconstructions.png", "samples.png", "first_stage_loss.png", "denoiser_loss.png", "denoiser_validation.png",
    "samples/0000.png", "samples/0001.png", "previews/samples-00000004.png", "ema/step-00000004.safetensors",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four samples, in whose folder files of the user's lay before."""
    out = tmp_path_factory.mktemp("finished")
    for name in ("notes.txt", "samples/0123.png", "samples/mine.png", "previews/mine.png", "samples-2/0000.png"):
        storage.atomic_write(f"{out}/{name}", PICTURE)
    go(out, "sample.images=4")
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", USED)
def test_a_file_in_the_way_ends_the_run_before_anything_is_made(tmp_path: Path, name: str) -> None:
    storage.atomic_write(f"{tmp_path}/{name}", PICTURE)
    storage.atomic_write(f"{tmp_path}/notes.txt", "the user's")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=rf"holds {name}, which this run did not write .*`out`.*`force`"):
        go(tmp_path, "trainer.preview_every=4", "trainer.ema_power=[0.1]")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["samples/0000.png", "model.safetensors", "recipe.yaml", "metrics.jsonl", "samples.png"]
)
def test_the_same_where_the_folder_is_remote(tmp_path: Path, name: str) -> None:
    out = f"memory://{tmp_path.name}"
    storage.atomic_write(f"{out}/{name}", PICTURE)
    with pytest.raises(ConfigError, match=rf"holds {name}, which"):
        go(out)
    assert storage.read_bytes(f"{out}/{name}") == PICTURE
    assert [storage.base_name(f.url) for f in storage.list_files(out, recursive=True)] == [storage.base_name(name)]
    storage.remove(out, recursive=True)


def test_other_files_stay(finished: Path) -> None:
    there = contents(finished)
    for name in ("notes.txt", "samples/0123.png", "samples/mine.png", "previews/mine.png", "samples-2/0000.png"):
        assert there[name] == PICTURE
    listed = set(json.loads(there[FILE])["ldm_core_files"])
    assert {"recipe.yaml", "model.safetensors", "samples/0003.png", "samples.png", "metrics.jsonl"} <= listed
    assert not {"samples/0123.png", "notes.txt"} & listed


def test_an_earlier_samplings_files_are_its_own(run: Path) -> None:
    go(run, "sample.images=2")
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["0000.png", "0001.png", "0123.png", "mine.png"]
    assert (run / "samples/0123.png").read_bytes() == PICTURE


@pytest.mark.parametrize("name", ["samples/0001.png", "samples.png"])
def test_a_file_of_its_own_that_was_changed_is_the_users(run: Path, name: str) -> None:
    (run / name).write_bytes(PICTURE)
    with pytest.raises(ConfigError, match=rf"holds {name}, which this run did not write \(or which was changed"):
        go(run, "sample.images=2")
    assert (run / name).read_bytes() == PICTURE
    go(run, "sample.images=2", stages=("first_stage", "latents", "denoiser"))  # which does not write them


def test_a_run_without_a_list_goes_on(run: Path) -> None:
    """As earlier versions left it: its files are recognised by what they hold."""
    (run / FILE).unlink()
    (run / "denoiser_loss.png").write_bytes(PICTURE)
    weights = (run / "model.safetensors").read_bytes()
    watch = go(run, "sample.images=3")
    assert ("denoiser", "skipped") in watch.ends and (run / "model.safetensors").read_bytes() == weights
    assert sorted(p.name for p in (run / "samples").iterdir())[:4] == ["0000.png", "0001.png", "0002.png", "0123.png"]
    assert OwnFiles.read(str(run)).owns("denoiser_loss.png")


@pytest.mark.parametrize("name", ["samples/0002.png", "model.safetensors"])
def test_a_run_without_a_list_and_a_file_that_it_cannot_have_written(run: Path, name: str) -> None:
    (run / FILE).unlink()
    (run / name).write_bytes(PICTURE)
    with pytest.raises(ConfigError, match=f"holds {name}, which"):
        go(run, "sample.images=4")
    assert (run / name).read_bytes() == PICTURE


def test_force_takes_the_names_that_the_run_uses(run: Path) -> None:
    (run / "samples/0001.png").write_bytes(PICTURE)
    OwnFiles.read(str(run)).adopt()
    go(run, "sample.images=2")
    assert (run / "samples/0001.png").read_bytes() != PICTURE
    assert (run / "notes.txt").read_bytes() == (run / "samples/mine.png").read_bytes() == PICTURE


def test_the_same_recipe_in_another_form_stays_as_it_is(run: Path) -> None:
    text = "# my run\n" + (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text)
    go(run, "sample.images=4", stages=("first_stage",))
    assert (run / "recipe.yaml").read_text() == text
    with pytest.raises(ConfigError, match=r"holds recipe\.yaml"):
        go(run, "sample.images=3", stages=("first_stage",))


def test_weights_of_this_very_recipe_are_taken(run: Path, tmp_path: Path) -> None:
    """Put into an empty folder by hand they are what the run would make: nothing is overwritten."""
    for name in ("first_stage.safetensors", "model.safetensors"):
        storage.atomic_write(f"{tmp_path}/other/{name}", (run / name).read_bytes())
    watch = go(tmp_path / "other", "sample.images=1")
    assert [e for e in watch.ends if e[1] == "skipped"][:1] == [("first_stage", "skipped")]
    assert ("denoiser", "skipped") in watch.ends


@pytest.mark.parametrize("name", ["samples", "previews", "checkpoints", "latents", "ema"])
def test_a_file_where_a_folder_should_be(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("the user's")
    with pytest.raises(StorageError, match=f"cannot write into .*{name}: it is a file"):
        go(tmp_path)
    assert contents(tmp_path) == {name: b"the user's"}


def test_damaged_metrics_are_said_at_the_start(run: Path) -> None:
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n" + whole + b'{"stage": "den')
    watch = go(run, "sample.images=4", stages=("first_stage",))
    assert "half a line at its end was taken off" in watch.messages[0] and "1 of" in watch.messages[0]
    assert (run / "metrics.jsonl").read_bytes().startswith(b"\xff\xfe\n" + whole)
    (run / "bad_examples.txt").write_bytes(b"\xff")
    own = OwnFiles.read(str(run))
    own.note({"bad_examples.txt": None})
    with pytest.raises(StorageError, match=r"bad_examples\.txt: it is not UTF-8"):
        go(run, "sample.images=4", stages=("first_stage",))


@pytest.mark.parametrize("text", ["", "[]", '{"ldm_core_files": [1]}', "no JSON", '{"files": {}}'])
def test_a_list_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match="is no list of a run's files"):
        OwnFiles.read(str(tmp_path))


def test_of_a_large_file_both_ends_and_the_size_count(tmp_path: Path) -> None:
    own, data = OwnFiles(str(tmp_path), {}), bytes(300_000)
    own.write("a.bin", data)
    for other in (data[:-1], data + b"\0", b"\1" + data[1:], data[:-1] + b"\1"):
        (tmp_path / "a.bin").write_bytes(other)
        assert not own.owns("a.bin")
    (tmp_path / "a.bin").write_bytes(data)
    assert OwnFiles.read(str(tmp_path)).owns("a.bin")


def test_reconstructions_have_a_folder_of_their_own(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(PICTURE)
    assert main(["reconstruct", str(finished), "a.png", "--device", "cpu"]) == 0
    first = contents(Path("reconstructions"))
    assert main(["reconstruct", str(finished), "a.png", "--json"]) == 0
    assert '"out": "reconstructions-2"' in capsys.readouterr().out
    Path("mine").mkdir()
    Path("mine/0000-a.png").write_text("the user's")
    assert main(["reconstruct", str(finished), "a.png", "--out", "mine"]) == 2
    assert "holds 0000-a.png already" in capsys.readouterr().err
    assert contents(Path("reconstructions")) == first and Path("mine/0000-a.png").read_text() == "the user's"
    assert main(["reconstruct", str(finished), "none.png"]) == 2
    assert not Path("reconstructions-3").exists()


@pytest.mark.parametrize("out", ["mine.safetensors", "memory://ema/mine.safetensors"])
def test_averages_take_no_file_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.atomic_write(out, "the user's")
    assert main(["ema", "run", "--width", "0.1", "--out", out]) == 2
    assert f"--out {out}: is there already; give another name, or --force" in capsys.readouterr().err
    assert main(["ema", "run", "--width", "0.1", "--out", out, "--force"]) == 2  # there is no such run
    assert storage.read_text(out) == "the user's"


class Stopped(Watch):
    """Asks for a stop at the second batch of samples."""

    def __init__(self) -> None:
        super().__init__(("samples", 4))


def test_interrupted_samples_stay(run: Path) -> None:
    """Batches of one of three steps: the fourth step is the second image's."""
    before = contents(run)
    with pytest.raises(
        Interrupted, match=r"samples: stopped; 1 of 3 samples are finished and lie in .*samples; the same"
    ):
        go(run, "sample.images=3", "sample.batch=1", "sample.seed=77", watch=Stopped())
    after = contents(run)
    assert images.png_metadata(after["samples/0000.png"])["seed"] == "77"
    assert after["samples/0001.png"] == before["samples/0001.png"], "an earlier sampling's"
    assert images.decode_image(after["samples.png"]).shape[2] < 300, "the sheet shows the one that there is"
    go(run, "sample.images=3", "sample.batch=1", "sample.seed=77")
    assert images.png_metadata((run / "samples/0002.png").read_bytes())["seed"] == "79"


def test_a_full_disk_keeps_the_samples_that_are_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    save = Sampled.save

    def full(self: Any, url: str) -> None:
        if len(saved) == 2:
            raise StorageError(f"cannot write {url}: no space left on the disk")
        saved.append(url)
        save(self, url)

    monkeypatch.setattr(Sampled, "save", full)
    watch = Watch()
    with pytest.raises(StorageError, match="no space left"):
        go(run, "sample.images=4", "sample.batch=1", "sample.seed=5", watch=watch)
    assert any("2 of 4 samples are finished and lie in" in m for m in watch.messages)
    assert images.png_metadata((run / "samples/0001.png").read_bytes())["seed"] == "6"
