"""Pictures, weights, reports, cards, sheets, graphs and answers of a server: none names a folder of the machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from header_files import VOCABULARY
from training_runs import TINY, VQ, go

import ldm_core
from ldm_core.cli import main
from ldm_core.data import images
from ldm_core.recipe.places import handed_on
from ldm_core.storage import told_without_folders, without_folders

for name in ("bert_text", "vq_ae", "ddim", "autoguidance", "report", "hub", "datasheet", "metrics", "onnx", "serve"):
    pytest.importorskip(f"ldm_plugin_{name}")

NETWORK = ["fd.network=resnet10t", "fd.random_seed=0", "fd.size=32", "fd.allow_few=true"]
FOLDER = "private-folder-of-anna"
TEXT = {"use": "text", "vocab_size": 40, "width": 8, "layers": 1, "heads": 2, "head_width": 4, "length": 8,
        "spare_tokens": 0, "dropout": 0.1}  # fmt: skip


@pytest.mark.parametrize(
    "text, name",
    [
        ("/srv/anna/stage", "stage"),
        ("/srv/anna/stage/", "stage"),
        ("~/stage", "stage"),
        ("~anna/runs/stage", "stage"),
        ("file:///srv/anna/a b.tar", "a b.tar"),
        ("C:\\Users\\anna\\x.png", "x.png"),
        ("D:/anna/x.png", "x.png"),
        ("\\\\server\\anna\\x.png", "x.png"),
        ("/srv/anna/a,/srv/anna/b", "a,b"),
        ("/srv/anna/{000..003}.tar", "{000..003}.tar"),
        ("/srv/anna/{a,b}.tar", "{a,b}.tar"),
        ("zip://*.png::/srv/anna/all.zip", "zip://*.png::all.zip"),
        ("simplecache::s3://bucket/x", "simplecache::s3://bucket/x"),
        ("runs/stage", "runs/stage"),
        ("../stage", "../stage"),
        ("s3://bucket/anna/x", "s3://bucket/anna/x"),
        ("hf://anna/model", "hf://anna/model"),
        ("a red circle, 1/2", "a red circle, 1/2"),
        ("\\d+\\.png", "\\d+\\.png"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_of_an_absolute_local_path_the_last_name_is_left(text: str, name: str) -> None:
    assert without_folders(text) == name
    assert without_folders(name) == name


@pytest.mark.parametrize(
    "text, said",
    [
        ("data: /srv/anna/photos: 8 samples", "data: photos: 8 samples"),
        ("'vq_ae' from /srv/anna/stage/x.safetensors, frozen", "'vq_ae' from x.safetensors, frozen"),
        ("(file:///srv/anna/x.tar)", "(x.tar)"),
        ("see ~/runs/a and C:\\Users\\anna\\b.png", "see a and b.png"),
        ("s3://bucket/srv/anna: 1/2 of all, and/or /v1", "s3://bucket/srv/anna: 1/2 of all, and/or /v1"),
        ("runs/demo/model.safetensors, ../x/y, {a,/b/c}", "runs/demo/model.safetensors, ../x/y, {a,c}"),
    ],
)
def test_in_a_sentence_as_well(text: str, said: str) -> None:
    assert told_without_folders(text) == said


def test_a_recipe_keeps_its_prompts_and_hashes() -> None:
    plain: dict[str, Any] = {
        "first_stage": {"use": "vq_ae", "weights": "/srv/anna/stage", "sha256": "ab" * 32},
        "adapters": [{"use": "of_nobody", "weights": "/srv/anna/style.safetensors", "inner": {"map": ["/a/b", 3]}}],
        "sample": {"prompts": ["/imagine a/b"], "decoder": "/srv/anna/tiny"},
    }
    assert handed_on(plain) == {
        "first_stage": {"use": "vq_ae", "weights": "stage", "sha256": "ab" * 32},
        "adapters": [{"use": "of_nobody", "weights": "style.safetensors", "inner": {"map": ["b", 3]}}],
        "sample": {"prompts": ["/imagine a/b"], "decoder": "tiny"},
    }
    assert plain["sample"]["decoder"] == "/srv/anna/tiny"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a tokenizer, a first stage and two models on it, each known by its absolute path."""
    home = tmp_path_factory.mktemp("machine") / FOLDER
    (home / "photos").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(8):
        picture = draw.integers(0, 256, (3, 16, 16)).astype(np.uint8)
        (home / "photos" / f"{i}.png").write_bytes(images.png_bytes(picture))
        (home / "photos" / f"{i}.txt").write_text("a red circle")
    (home / "vocab.txt").write_text(VOCABULARY)
    data = {"use": "folder", "url": str(home / "photos")}
    go(home / "stage", first_stage=VQ, dataset=data, stages=("first_stage",))
    more: dict[str, Any] = {
        "first_stage": {"weights": str(home / "stage")},
        "conditioners": [{**TEXT, "tokenizer": str(home / "vocab.txt")}],
        "dataset": data,
        "sampler": "ddim",
    }
    go(home / "weaker", "trainer.steps=1", stages=("first_stage", "denoiser"), **more)
    start = {"init_from": str(home / "weaker"), "init_sha256": "", "preview_every": 4}
    go(
        home / "run",
        **more,
        trainer={**TINY["trainer"], **start},
        sample={**TINY["sample"], "prompts": ["a red circle"]},
        observers=["report"],
    )
    return home


def texts_of(file: Path) -> bytes:
    """Its bytes, of a PNG with the texts in it unpacked."""
    data = file.read_bytes()
    if data.startswith(b"\x89PNG"):
        return data + json.dumps(images.png_metadata(data)).encode()
    return data


def handed(folder: Path) -> Iterator[Path]:
    """The files of a folder that may be handed on."""
    yield from (f for f in sorted(folder.rglob("*")) if f.suffix in (".png", ".safetensors", ".html", ".onnx", ".md"))


def names_no_folder(files: list[Path], least: int) -> None:
    assert len(files) >= least, files
    assert [str(file) for file in files if FOLDER.encode() in texts_of(file)] == []


def test_a_run_writes_no_folder_into_what_it_makes(home: Path) -> None:
    """Its own recipe.yaml has the paths: it goes on from there."""
    files = [file for file in handed(home / "run") if "checkpoints" not in file.parts]
    assert {file.name for file in files} >= {
        "model.safetensors", "first_stage.safetensors", "samples.png", "0000.png", "report.html",
        "samples-00000004.png",
    }  # fmt: skip
    names_no_folder(files, 8)
    assert f"{FOLDER}/stage" in (home / "run/recipe.yaml").read_text()


def test_samples_name_files_and_hashes(home: Path, tmp_path: Path) -> None:
    """Whether they are drawn by the run, from the command or from Python, and with a second model."""
    second = ["guidance=autoguidance", f"guidance.model={home / 'weaker'}"]
    line = ["sample", str(home / "run"), "--prompt", "a red circle", "--images", "1", "--quiet", "--out", str(tmp_path)]
    assert main([*line, *second]) == 0
    names_no_folder(list(handed(tmp_path)), 2)
    pipeline = ldm_core.load(str(home / "run"), device="cpu")
    of_python = pipeline.sample("a red circle", seed=0, steps=3)[0].metadata
    of_run = images.png_metadata((home / "run/samples/0000.png").read_bytes())
    preview = images.png_metadata((home / "run/previews/samples-00000004.png").read_bytes())
    (single,) = (images.png_metadata(f.read_bytes()) for f in tmp_path.rglob("0000-*.png"))
    assert of_python["recipe_sha256"] == of_run["recipe_sha256"] == single["recipe_sha256"]
    assert "recipe_sha256" not in preview or preview["recipe_sha256"] == of_run["recipe_sha256"]
    for recipe in (json.loads(each["recipe"]) for each in (of_python, of_run, single)):
        stage = recipe["first_stage"]
        assert stage["weights"] in ("stage", "first_stage.safetensors") and len(stage["sha256"]) == 64
        assert recipe["dataset"]["url"] == "photos" and recipe["trainer"]["init_sha256"]
    guidance = json.loads(single["recipe"])["guidance"]
    assert guidance["model"] == "weaker" and len(guidance["sha256"]) == 64


def test_reports_cards_and_sheets_name_no_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache"))
    run, out = str(home / "run"), tmp_path / "out"
    out.mkdir()
    figures = [
        "evaluate",
        run,
        "--against",
        str(home / "photos"),
        "--metrics",
        "fd",
        *NETWORK,
        "--images",
        "4",
    ]
    assert main([*figures, "--out", str(tmp_path / "figures")]) == 0, capsys.readouterr().err
    asked = ["--evaluation", str(tmp_path / "figures")]
    assert main(["report", run, *asked, "--out", str(out / "report.html")]) == 0
    assert main(["report", run, str(home / "weaker"), "--out", str(out / "both.html")]) == 0
    capsys.readouterr()
    assert main(["data", str(home / "photos"), "--json", "--sheet", str(out / "sheet.png")]) == 0
    (out / "sheet.md").write_text(capsys.readouterr().out)
    assert main(["push", run, str(out / "pushed"), "--licence", "mit", *asked]) == 0
    assert "header names places" not in capsys.readouterr().err
    names_no_folder(list(handed(out)), 10)


def test_exported_graphs_name_no_folder(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert main(["convert", str(home / "run"), str(tmp_path / "graphs"), "--to", "onnx"]) == 0
    names_no_folder([file for file in (tmp_path / "graphs").rglob("*") if file.is_file()], 4)


def test_a_server_names_no_folder(home: Path) -> None:
    from serve_process import running

    body = {"inputs": {"caption": "a red circle"}, "settings": {"images": 1, "steps": 2, "seed": 5}}
    with running([home / "run"]) as served:
        answers = [served.client.get(f"/v1/{what}") for what in ("models", "models/run/progress")]
        answers.append(served.client.post("/v1/sample", json=body))
        assert answers[2].status_code == 200
        picture = served.client.post("/v1/sample", json=body, headers={"accept": "image/png"})
    import base64

    held = [base64.b64decode(each["png"]) for each in answers[2].json()["images"] if "png" in each]
    for answer in (*(each.content for each in answers), picture.content, *held):
        assert FOLDER.encode() not in answer
        if answer.startswith(b"\x89PNG"):
            told = images.png_metadata(answer)
            assert FOLDER not in json.dumps(told) and json.loads(told["recipe"])["first_stage"]["weights"]


def test_samples_of_older_runs_are_pushed_without_folders(home: Path, tmp_path: Path) -> None:
    """Their recipe had the path of the first stage; the pixels stay, and the run's own file as well."""
    import shutil

    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    file = run / "samples/0000.png"
    told = images.png_metadata(file.read_bytes())
    recipe = json.loads(told["recipe"])
    recipe["first_stage"]["weights"] = f"/{FOLDER}/stage"
    pixels = images.decode_image(file.read_bytes(), 3, "own")
    file.write_bytes(images.png_bytes(pixels, {**told, "recipe": json.dumps(recipe)}))
    assert main(["push", str(run), str(tmp_path / "pushed"), "--licence", "mit"]) == 0
    pushed = (tmp_path / "pushed/samples/0000.png").read_bytes()
    assert np.array_equal(images.decode_image(pushed, 3, "pushed"), pixels)
    assert images.png_metadata(pushed) == told
    assert FOLDER.encode() in texts_of(file)


def held_in(folder: Path) -> list[Path]:
    """All files of a folder."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def test_a_tuned_run_names_no_folder(home: Path, tmp_path: Path) -> None:
    """Neither in its weights' presets nor in the table and its pictures, nor once it is pushed."""
    pytest.importorskip("ldm_plugin_study")
    run = Path(shutil.copytree(home / "run", tmp_path / FOLDER / "run"))
    few = ["--sampler", "ddim", "--time-grid", "trailing", "--steps", "1,2", "--cache", "none", "--images", "3"]
    few += ["--rungs", "1", "--rounds", "1", "--batch", "1", "--bootstrap", "2"]
    assert main(["tune", str(run), *few, "--against", str(home / "photos"), *NETWORK, "--quiet"]) == 0
    assert b"fast" in (run / "model.safetensors").read_bytes()[:100_000]
    made = [run / "model.safetensors", *(run / "tune").glob("tune.*")]
    names_no_folder(made, 6)
    line = ["sample", str(run), "--prompt", "a red circle", "--preset", "fast", "--images", "1", "--quiet"]
    assert main([*line, "--out", str(tmp_path / "drawn")]) == 0
    assert main(["push", str(run), str(tmp_path / "pushed"), "--licence", "mit"]) == 0
    names_no_folder(list(handed(tmp_path / "drawn")), 2)
    names_no_folder(held_in(tmp_path / "pushed"), 6)


def test_a_distilled_run_names_no_folder(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("ldm_plugin_distill")
    out = tmp_path / FOLDER / "student"
    assert main(["distil", str(home / "run"), "--steps", "2", "--out", str(out), "--train-steps", "2", "--quiet"]) == 0
    names_no_folder([file for file in handed(out) if "checkpoints" not in file.parts], 4)
    assert main(["push", str(out), str(tmp_path / "pushed"), "--licence", "mit"]) == 0
    names_no_folder(held_in(tmp_path / "pushed"), 6)


def test_converted_weights_name_no_folder(home: Path, tmp_path: Path) -> None:
    assert main(["convert", str(home / "run"), str(tmp_path / "made"), "--to", "ldm"]) == 0
    names_no_folder(held_in(tmp_path / "made"), 2)


def test_a_small_decoder_names_no_folder(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("ldm_plugin_tiny_decoder")
    run = Path(shutil.copytree(home / "run", tmp_path / FOLDER / "run"))
    assert main(["decoder", str(run), "--steps", "2", "--quiet", "first_stage.widths=[8]"]) == 0
    names_no_folder(list((run / "decoders").glob("*.safetensors")), 1)
