"""``ldm-run evaluate``: its figures, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from evaluation_runs import evaluated, files, pictures, refused, trained
from evaluation_runs import own_caches as _own_caches  # noqa: F401
from ldm_plugin_metrics.comparison.compare import compare

from ldm_core import storage
from ldm_core.cli import main
from ldm_core.config import documents
from ldm_core.data import images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("evaluate") / "run")


def _levels(folder: Path) -> np.ndarray:
    decoded = [images.decode_image(path.read_bytes(), 3) for path in sorted(folder.iterdir())]
    return np.array([each.mean() / 255 for each in decoded])


def test_two_folders_have_the_distance_of_their_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = pictures(tmp_path / "a", 70), pictures(tmp_path / "b", 90, seed=1, shift=30)
    found = evaluated(capsys, own, "--against", other, "--metrics", "brightness", "--out", tmp_path / "out")
    a, b = _levels(own), _levels(other)
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    value = found["metrics"][0]["values"]["brightness"]
    assert value["value"] == pytest.approx(expected, rel=1e-9) and not value["higher_is_better"]
    assert 0 < value["floor"] < expected and found["metrics"][0]["floor_pictures"] == 45
    assert (found["sets"]["pictures"]["pictures"], found["sets"]["reference"]["pictures"]) == (70, 90)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["line"] == found["line"]
    assert "70 pictures of 16x16 pixels" in found["line"]


def test_shards_of_one_split_alone_are_that_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = pictures(tmp_path / "a", 8), pictures(tmp_path / "b", 8, seed=1)
    with tarfile.open(tmp_path / "photos-val-000000.tar", "w") as tar:
        for path in sorted(other.iterdir()):
            tar.add(path, path.name)
    words = [own, "--against", tmp_path / "photos-val-000000.tar", "--metrics", "brightness", "--out", tmp_path / "out"]
    reference = evaluated(capsys, *words)["sets"]["reference"]
    assert reference["pictures"] == 8 and reference["what"].endswith("photos-val-000000.tar (val)")
    assert "no shards of the split 'test'" in refused(capsys, *words, "against.split=test")


def test_a_run_is_measured_with_its_protocol(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [run, "--metrics", "brightness,psnr", "--images", 66, "--keep", "--bootstrap", 4, "guidance.scale=3"]
    found = evaluated(capsys, *arguments, "--steps", 2, "--seed", 7, "--out", tmp_path / "out")
    brightness, psnr = found["metrics"]
    assert (brightness["of"], brightness["pictures"], brightness["against_pictures"]) == ("samples", 66, 8)
    assert (psnr["of"], psnr["pictures"], psnr["against"]) == ("reconstructions", 8, "")
    low, high = brightness["values"]["brightness"]["interval"]
    assert low < brightness["values"]["brightness"]["value"] < high
    samples = found["sets"]["samples"]
    assert (samples["sampler"], samples["steps"], samples["scale"], samples["seeds"]) == ("ddpm", 2, 3.0, [7, 72])
    assert samples["labels"] == "data" and samples["inputs"]["what"] == "the run's held-out data"
    assert len(samples["weights"]) == 64 and samples["versions"]["ldm-plugin-vq-ae"]
    kept = sorted((tmp_path / "out" / "samples").rglob("*.png"))
    assert len(kept) == 66
    measured = _levels(kept[0].parent)
    (rows,) = (
        p.parent for p in (tmp_path / "out" / "rows").rglob("rows-00000000-*.npy") if len(list(p.parent.iterdir())) == 2
    )
    there = np.concatenate([np.load(p)["level"] for p in sorted(rows.iterdir())])
    assert np.allclose(there, measured, atol=1e-12)


def test_kept_samples_are_read_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [run, "--metrics", "brightness", "--images", 5, "--keep", "--out", tmp_path / "out"]
    first = evaluated(capsys, *arguments)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "samples").rglob("*.png")}
    for rows in (tmp_path / "out" / "rows").rglob("*.npy"):
        rows.unlink()
    assert evaluated(capsys, *arguments) == first
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_a_second_call_makes_nothing_anew(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [run, "--metrics", "brightness", "--images", 70, "--out", tmp_path / "out"]
    evaluated(capsys, *arguments)
    before = files(tmp_path)
    for rows in tmp_path.rglob("rows-*.npy"):
        os.utime(rows, (1, 1))
    evaluated(capsys, *arguments)
    assert files(tmp_path) == before
    assert all(p.stat().st_mtime == 1 for p in tmp_path.rglob("rows-*.npy"))
    next((tmp_path / "out").rglob("rows-00000064-*.npy")).write_bytes(b"cut off")
    evaluated(capsys, *arguments)
    assert files(tmp_path) == before


def test_a_reference_of_training_pictures_is_warned_of(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    arguments = ["evaluate", str(run), "--metrics", "brightness", "--images", "4", "--quiet", "--out"]
    assert main([*arguments, str(tmp_path / "a"), "against.split=train"]) == 0
    assert "is what the model was trained on" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "b")]) == 0
    assert "trained on" not in capsys.readouterr().err


def test_too_few_pictures_are_refused_before_any_is_made(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, run, "--metrics", "brightness", "--images", 1, "--out", tmp_path / "out")
    assert "brightness: needs 2 pictures on either side, and there are 1 (samples); give --images 2" in said
    assert not (tmp_path / "out").exists()
    own, other = pictures(tmp_path / "a", 3), pictures(tmp_path / "b", 1)
    said = refused(capsys, own, "--against", other, "--metrics", "brightness", "--out", tmp_path / "out")
    assert "needs 2 pictures" in said and "there are 1 (reference); give at least 2" in said


def test_pictures_of_several_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = pictures(tmp_path / "a", 3), pictures(tmp_path / "b", 4, size=24)
    (own / "00001.png").write_bytes((other / "00001.png").read_bytes())
    arguments = [own, "--against", other, "--metrics", "brightness", "--out", tmp_path / "out"]
    said = refused(capsys, *arguments)
    assert "picture 1 is 24x24 and the first 16x16" in said and "--image-size" in said
    found = evaluated(capsys, *arguments, "--image-size", 8, "--filter", "lanczos")
    assert found["sets"]["reference"]["size"] == [8, 8] and found["sets"]["reference"]["filter"] == "lanczos"


def test_what_does_not_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = pictures(tmp_path / "a", 3), pictures(tmp_path / "b", 3)
    (own / "00002.png").write_bytes(b"no picture")
    arguments = ["--against", other, "--metrics", "brightness", "--out", tmp_path / "out"]
    assert "00002" in refused(capsys, own, *arguments)
    np.save(tmp_path / "floats.npy", np.full((3, 16, 16, 3), np.nan, np.float32))
    assert "holds NaN" in refused(capsys, tmp_path / "floats.npy", *arguments)
    np.save(tmp_path / "floats.npy", np.full((3, 16, 16, 3), 0.5, np.float32))
    assert "is float32; pictures are uint8" in refused(capsys, tmp_path / "floats.npy", *arguments)
    np.savez(tmp_path / "samples.npz", np.zeros((3, 16, 16, 3), np.uint8))
    assert evaluated(capsys, tmp_path / "samples.npz", *arguments)["sets"]["pictures"]["channels"] == 3
    assert "no such file or folder" in refused(capsys, tmp_path / "nothing", *arguments)


def test_settings_have_a_place(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = pictures(tmp_path / "a", 3)
    end = ["--out", tmp_path / "out"]
    assert "unknown key" in refused(capsys, run, "--metrics", "brightness", "brightness.x=3", *end)
    assert "x: unknown" in refused(capsys, run, "--metrics", "brightness", "x.y=3", *end)
    assert "no metric named 'fid_'" in refused(capsys, run, "--metrics", "fid_", *end)
    assert "different names" in refused(capsys, run, "--metrics", "psnr,psnr", *end)
    assert "--against" in refused(capsys, own, "--metrics", "brightness", *end)
    said = refused(capsys, own, "--against", own, "--metrics", "brightness", "guidance.scale=2", *end)
    assert "is no model" in said


def test_pairs_of_folders_have_a_psnr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, originals = pictures(tmp_path / "a", 5), pictures(tmp_path / "b", 5, shift=10)
    found = evaluated(capsys, made, "--against", originals, "--metrics", "psnr", "--out", tmp_path / "out")
    assert found["metrics"][0]["values"]["psnr"]["value"] == pytest.approx(28.13, abs=0.05)
    pictures(tmp_path / "b", 6, shift=10)
    assert "there are 5 pictures and 6 originals" in refused(
        capsys, made, "--against", originals, "--metrics", "psnr", "--out", tmp_path / "out"
    )


def test_a_first_stage_alone_is_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, stage = pictures(tmp_path / "a", 5), run / "first_stage.safetensors"
    arguments = [stage, "--against", own, "--metrics", "psnr", "--out", tmp_path / "out"]
    assert "such as --image-size" in refused(capsys, *arguments)
    assert evaluated(capsys, *arguments, "--image-size", 16)["metrics"][0]["pictures"] == 5
    said = refused(capsys, stage, "--against", own, "--metrics", "brightness", "--image-size", 16, *arguments[-2:])
    assert "is a first stage alone" in said


def test_rows_of_a_model_are_its_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A metric that calls the model gets the keys that the model reads, and no rows of another model."""
    other = trained(tmp_path / "other", seed=1)
    arguments = ["--metrics", "bound", "bound.levels=3", "--out", tmp_path / "out", "--quiet"]
    one, two, again = (evaluated(capsys, each, *arguments) for each in (run, other, run))
    values = [found["metrics"][0]["values"]["bound"]["value"] for found in (one, two, again)]
    assert values[0] == values[2] != values[1]
    assert one["metrics"][0]["of"] == "data"
    assert one["model"]["weights"][:12] in one["line"]
    said = refused(capsys, pictures(tmp_path / "a", 3), *arguments[:-1])
    assert "bound: asks the model" in said


def test_a_reference_is_measured_once_for_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = pictures(tmp_path / "a", 5), pictures(tmp_path / "b", 70, seed=1)
    cache = "memory://references-of-a-test"
    arguments = ["--against", other, "--metrics", "brightness", "--cache", cache, "--out"]
    first = evaluated(capsys, own, *arguments, tmp_path / "one")
    rows = storage.list_files(cache, recursive=True)
    assert [storage.base_name(file.url) for file in rows] == [
        "rows-00000000-00000064.npy",
        "rows-00000064-00000070.npy",
    ]
    again = evaluated(capsys, own, *arguments, tmp_path / "two")
    assert first == {**again, "out": first["out"]}
    assert storage.list_files(cache, recursive=True) == rows
    evaluated(capsys, own, *arguments, tmp_path / "two", "--image-size", 8)
    assert len(storage.list_files(cache, recursive=True)) == 4  # of another size: other rows
    storage.remove(cache, recursive=True)


def test_data_of_a_run_elsewhere_are_not_read_unasked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody may have written the recipe in a run's folder: its storage and its places are not followed."""
    folder = tmp_path / "handed"
    shutil.copytree(run, folder)
    url = "memory://pictures-of-a-test"
    for path in pictures(tmp_path / "a", 6).iterdir():
        storage.atomic_write(storage.join(url, path.name), path.read_bytes())
    plain = documents.parse_yaml((folder / "recipe.yaml").read_text(), "recipe")
    (folder / "recipe.yaml").write_text(
        documents.dump_yaml({**plain, "dataset": {"use": "folder", "url": url}, "data": {"cache": str(tmp_path / "c")}})
    )
    arguments = [folder, "--metrics", "brightness", "--labels", "balanced", "--images", 3, "--out", tmp_path / "out"]
    said = refused(capsys, *arguments)
    assert f"its recipe names data at {url}" in said and "--against run" in said
    other = pictures(tmp_path / "b", 5)
    storage.remove(url, recursive=True)  # so whoever reads there fails
    assert evaluated(capsys, *arguments, "--against", other)["metrics"][0]["against_pictures"] == 5
    for path in (tmp_path / "a").iterdir():
        storage.atomic_write(storage.join(url, path.name), path.read_bytes())
    assert main(["evaluate", *map(str, arguments), "--against", url, "--quiet"]) == 0
    assert "is what the model was trained on" in capsys.readouterr().err  # by its place alone
    found = evaluated(capsys, *arguments, "--against", "run")
    assert found["metrics"][0]["against_pictures"] == 6
    storage.remove(url, recursive=True)


def test_originals_are_no_fewer_references(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer reconstructions leave the reference of samples whole, and their own is their originals."""
    network = ["network=resnet10t", "random_seed=0", "size=32", "allow_few=true"]
    settings = [f"{name}.{setting}" for name in ("fd", "rfd") for setting in network]
    out = ["--out", tmp_path / "out"]
    found = evaluated(capsys, run, "--metrics", "fd,rfd", "--images", 4, *settings, *out)
    samples, rebuilt = found["metrics"]
    assert (samples["pictures"], samples["against"], samples["against_pictures"]) == (4, "reference", 8)
    assert (rebuilt["pictures"], rebuilt["against"], rebuilt["against_pictures"]) == (4, "originals", 4)
    assert samples["source"] == rebuilt["source"]


def test_inputs_come_from_the_run_where_the_reference_lacks_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [run, "--against", pictures(tmp_path / "a", 5), "--metrics", "brightness", "--images", 3]
    found = evaluated(capsys, *arguments, "--out", tmp_path / "out")
    assert found["sets"]["samples"]["inputs"]["what"] == "the run's held-out data"
    assert found["sets"]["reference"]["pictures"] == 5
    arguments[0] = run / "model.safetensors"
    assert "the model reads 'class_label', and" in refused(capsys, *arguments, "--out", tmp_path / "out")


def test_samples_are_kept_of_rows_that_were_made_without(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [run, "--metrics", "brightness", "--images", 5, "--steps", 2, "--out", tmp_path / "out"]
    plain = evaluated(capsys, *arguments)
    rows = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    kept = evaluated(capsys, *arguments, "--keep")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 5 and plain["metrics"] == kept["metrics"]
    assert rows == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}


def test_reconstructions_of_other_pictures_are_not_subtracted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        data = pictures(tmp_path / name, 4, seed=seed)
        evaluated(capsys, run, "--metrics", "psnr", "--against", data, "--images", 4, "--out", tmp_path / f"of-{name}")
    for other, word in (("b", "differs in fingerprint"), ("c", "")):
        found = compare([str(tmp_path / "of-a"), str(tmp_path / f"of-{other}")])
        (difference,) = (figure["differences"][1] for figure in found["figures"])
        assert (word in difference["incomparable"]) if word else (difference["value"] == 0), difference
