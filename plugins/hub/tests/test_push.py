"""``ldm-run push``: into a folder and onto a small Hub; what is pushed loads, and samples the run's bits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hub_server import HubServer, hub
from huggingface_hub import ModelCard
from training_runs import go
from written_runs import write

import ldm_core
from ldm_core import storage
from ldm_core.cli import main
from ldm_core.storage.options import StorageSettings
from ldm_core.testing import PluginSuite

__all__ = ["hub"]
PUSH = ["--licence", "mit"]


class TestPlugin(PluginSuite):
    module = "ldm_plugin_hub.plugin"


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    storage.configure(StorageSettings(connect_timeout=5, read_timeout=5, retries=0))
    yield
    storage.configure(None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that was trained, for a moment."""
    out = tmp_path_factory.mktemp("trained") / "run"
    go(out)
    return str(out)


EVALUATION: dict[str, Any] = {
    "format": 1,
    "kind": "evaluation",
    "line": "fid 12.3 of 500 samples.",
    "sets": {"data": {"url": "/somewhere/of/mine/photos", "pictures": 500}},
    "metrics": [
        {"metric": "fid", "source": "inception", "of": "samples", "pictures": 500, "against": "reference",
         "against_pictures": 400,
         "values": {"fid": {"value": 12.345, "higher_is_better": False, "interval": [11.5, 13.25]}}},
    ],
}  # fmt: skip


DATA_SHEET: dict[str, Any] = {
    "format": 1,
    "parts": [
        {"title": "/somewhere/of/mine/photos", "examples": 1024, "held_out": 2,
         "keys": [{"name": "image"}, {"name": "class_label"}],
         "pictures": {"sizes": [{"width": 6, "height": 8, "count": 1000}], "forms": {"PNG RGB": 1024}}},
        "odd",
    ],
}  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> str:
    """A folder that looks like a run with data sheet and figures."""
    url = write(str(tmp_path / "written"))
    storage.atomic_write(f"{url}/evaluation.json", json.dumps(EVALUATION))
    storage.atomic_write(f"{url}/datasheet.json", json.dumps(DATA_SHEET))
    return url


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def same_bits(first: Any, second: Any) -> None:
    a = first.sample(images=2, seed=5, steps=2)
    b = second.sample(images=2, seed=5, steps=2)
    assert all(np.array_equal(x.image, y.image) for x, y in zip(a, b, strict=True))
    assert [x.metadata for x in a] == [y.metadata for y in b]


# --------------------------------------------------------------------------------------------------- a folder


def test_a_pushed_folder_loads_and_samples_the_runs_bits(run: str, tmp_path: Path) -> None:
    target = tmp_path / "pushed"
    assert main(["push", run, str(target), *PUSH]) == 0
    for name in ("model.safetensors", "first_stage.safetensors", "samples.png", "samples/0000.png"):
        assert (target / name).read_bytes() == Path(run, name).read_bytes()
    listed = json.loads((target / ".ldm-push.json").read_text())
    assert set(listed["files"]) == files_in(target) - {".ldm-push.json"} >= {"README.md", "recipe.yaml"}
    same_bits(ldm_core.load(run), ldm_core.load(str(target)))
    assert not list(tmp_path.glob(".*"))


def test_the_card_reads_as_the_hubs_own_library_reads_it(written: str, tmp_path: Path) -> None:
    target = tmp_path / "pushed"
    told = ["--title", "My | <model>", "--about", "Of *mine*.", "--dataset", "me/photos", "--data-licence", "CC BY 4.0",
            "--tag", "toy"]  # fmt: skip
    assert main(["push", written, str(target), *PUSH, *told]) == 0
    card = ModelCard.load(target / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["datasets"]) == ("mit", "ldm-core", ["me/photos"])
    assert data["pipeline_tag"] == "unconditional-image-generation" and {"latent-diffusion", "toy", "unet"} <= set(
        data["tags"]
    )
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("fid", 12.345, "me/photos")
    assert result.metric_args == {
        "of": "samples", "pictures": 500, "against": "reference", "against_pictures": 400, "source": "inception",
        "interval_95": [11.5, 13.25],
    }  # fmt: skip
    text = card.content
    assert "# My \\| &lt;model>" in text and "Of \\*mine\\*." in text
    assert "| fid | 12.35 [11.5, 13.25] | lower | 500 samples | 400 reference |" in text
    assert "Protocol: fid 12.3 of 500 samples." in text and "Licence of the data: CC BY 4.0." in text
    assert "| [0001.png](samples/0001.png) | a blue square | 1 | ddim, 3 steps |" in text
    assert (
        "| data sheet | photos |" in text
        and "| pictures | 1,024 |" in text
        and "| keys | image, class\\_label |" in text
    )
    assert "| most frequent sizes, width x height | 6x8 (1000) |" in text and "| files | PNG RGB |" in text
    assert 'ldm_core.load("pushed")' in text and "pipeline.sample()" in text, "a model without text has no prompt"
    assert re.search(r"\| parameters in `model.safetensors` \| 200 \|", text)


def test_nothing_but_the_header_says_where_things_lay(written: str, tmp_path: Path) -> None:
    target = tmp_path / "pushed"
    plain = yaml.safe_load(Path(written, "recipe.yaml").read_text())
    plain["dataset"] = {"use": "folder", "url": "/somewhere/of/mine/photos"}
    plain["trainer"]["init_from"] = "/somewhere/of/mine/start"
    Path(written, "recipe.yaml").write_text(yaml.safe_dump(plain))
    assert main(["push", written, str(target), *PUSH]) == 0
    for name in files_in(target):
        assert b"somewhere" not in (target / name).read_bytes(), name
        assert str(tmp_path).encode() not in (target / name).read_bytes(), name
    recipe = yaml.safe_load((target / "recipe.yaml").read_text())
    assert "dataset" not in recipe and recipe["denoiser"]["use"] == "unet"
    assert json.loads((target / "evaluation.json").read_text())["sets"]["data"]["url"] == "photos"


def test_places_in_the_header_are_named(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from ldm_core.recipe import artifacts

    right = artifacts.read_header

    def other(url: str, kind: str, **more: Any) -> Any:
        import attrs

        header = right(url, kind, **more)
        return attrs.evolve(header, config={**header.config, "dataset": {"use": "folder", "url": "/of/mine/photos"}})

    monkeypatch.setattr(artifacts, "read_header", other)
    assert main(["push", run, str(tmp_path / "pushed"), *PUSH]) == 0
    assert "header names places, which others will read: dataset.url: /of/mine/photos" in " ".join(
        capsys.readouterr().err.split()
    )


def test_an_older_push_is_replaced_and_anything_else_is_left_alone(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "pushed"
    target.mkdir()
    assert main(["push", written, str(target), *PUSH]) == 0
    Path(written, "samples/0002.png").unlink()
    assert main(["push", written, str(target), *PUSH, "--title", "second"]) == 0
    assert "samples/0002.png" not in files_in(target) and "# second" in (target / "README.md").read_text()
    (target / "notes.txt").write_text("mine")
    before = {name: (target / name).read_bytes() for name in files_in(target)}
    assert main(["push", written, str(target), *PUSH]) == 2
    assert "holds notes.txt, which no push wrote; move it away, or give another folder" in capsys.readouterr().err
    assert before == {name: (target / name).read_bytes() for name in files_in(target)}
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.png").write_bytes(b"a")
    assert main(["push", written, str(other), *PUSH]) == 2 and files_in(other) == {"a.png"}


def test_a_failure_leaves_the_older_push_whole(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "pushed"
    assert main(["push", written, str(target), *PUSH]) == 0
    before = {name: (target / name).read_bytes() for name in files_in(target)}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert main(["push", written, str(target), *PUSH, "--title", "second"]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert before == {name: (target / name).read_bytes() for name in files_in(target)}
    assert {p.name for p in tmp_path.iterdir()} == {"pushed", "written"}


@pytest.mark.parametrize(
    "line, said",
    [
        ([], "--licence: say under which licence others may use the weights"),
        (["--licence", "mitt"], "the Hub knows no 'mitt'"),
        (["--licence", "other"], "--licence other: give --licence-name and --licence-link as well"),
        (["--licence", "mit", "--licence-name", "x"], "belong to `other`"),
        (["--licence", "other", "--licence-name", "x", "--licence-link", "javascript:x"], "expected https://..."),
        (["--licence", "mit", "--dataset", "photos"], "--dataset: expected OWNER/NAME, got 'photos'"),
    ],
)
def test_statements_are_checked_first(line: list[str], said: str, written: str, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert main(["push", written, str(tmp_path / "pushed"), *line]) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "pushed").exists()


def test_another_licence_is_named_in_the_card(written: str, tmp_path: Path) -> None:
    told = ["--licence", "other", "--licence-name", "house", "--licence-link", "https://example.org/licence"]
    assert main(["push", written, str(tmp_path / "p"), *told]) == 0
    data = ModelCard.load(tmp_path / "p" / "README.md").data.to_dict()
    assert [data[k] for k in ("license", "license_name", "license_link")] == ["other", "house", told[-1]]


@pytest.mark.parametrize(
    "to", ["s3://bucket/x", "https://huggingface.co/me/x", "hf://me", "hf://datasets/me/x", "hf://me/x/y"]
)
def test_other_places_are_refused(to: str, written: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", written, to, *PUSH]) == 2
    assert "expected hf://OWNER/NAME" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "x").write_text("")
    assert main(["push", str(tmp_path / "run"), str(tmp_path / "p"), *PUSH]) == 2
    assert "holds no model.safetensors yet" in capsys.readouterr().err and not (tmp_path / "p").exists()


# -------------------------------------------------------------------------------------------------- a repository


@pytest.fixture
def logged_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    return hub


def test_a_pushed_run_is_sampled_from_the_hub(
    run: str, logged_in: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By huggingface_hub's own client in both directions; the weights go as large files, the rest in the commit."""
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache"))
    logged_in.large = 4096
    assert main(["push", run, "hf://me/tiny", *PUSH, "--message", "first"]) == 0
    repository = logged_in.repositories["models", "me/tiny"]
    assert repository.token == "hf_mine", "a new repository is private"
    files = repository.revisions["main"]
    assert files["model.safetensors"] == Path(run, "model.safetensors").read_bytes()
    assert [each["summary"] for each in repository.commits] == ["first"] and logged_in.uploads
    assert "/commit/" in capsys.readouterr().out
    same_bits(ldm_core.load(run), ldm_core.load("hf://me/tiny"))
    assert main(["inspect", "hf://me/tiny/model.safetensors"]) == 0
    line = ["check", "--recipe", "hf://me/tiny/recipe.yaml", "--first-stage", "hf://me/tiny", "--cond", "none"]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0
    assert not [name for name, data in files.items() if b"hf_mine" in data]


def test_a_second_push_replaces_the_first(written: str, logged_in: HubServer) -> None:
    assert main(["push", written, "hf://me/tiny", *PUSH, "--public"]) == 0
    repository = logged_in.repositories["models", "me/tiny"]
    assert not repository.token
    Path(written, "samples/0002.png").unlink()
    assert main(["push", written, "hf://me/tiny", *PUSH]) == 0
    assert "samples/0002.png" not in repository.revisions["main"] and len(repository.commits) == 2


def test_a_repository_of_somebody_elses_files_is_left_alone(
    written: str, logged_in: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    made = logged_in.add("me/theirs", {".gitattributes": b"", "model.bin": b"x"})
    assert main(["push", written, "hf://me/theirs", *PUSH]) == 2
    assert "hf://me/theirs: holds model.bin, which no push wrote" in capsys.readouterr().err
    assert not made.commits


def test_a_dry_run_sends_nothing(written: str, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    """And needs no token."""
    assert main(["push", written, "hf://me/tiny", *PUSH, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "license: mit" in out and not hub.requests
    assert main(["push", written, "hf://me/tiny", *PUSH, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["uploaded"] is False and document["files"]["model.safetensors"] > 0


@pytest.mark.parametrize(
    "path, status, headers, said",
    [
        ("/repos/create", 403, {}, "the Hub forbids it; use a token with the right to it"),
        (
            "/repos/create",
            401,
            {"X_Error_Message": "Invalid credentials in Authorization header"},
            "does not take these cred",
        ),
        ("/repos/create", 404, {}, "is 'me' you, or an organisation of yours?"),
        ("/commit/", 413, {}, "the Hub finds it too large; leave samples out, or ask for more room"),
        ("/commit/", 409, {}, "somebody else changed the repository just now"),
        ("/preupload/", 403, {}, "the Hub forbids it"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    path: str, status: int, headers: Mapping[str, str], said: str, written: str, logged_in: HubServer,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    logged_in.fail(path, status, times=9, headers=headers)
    assert main(["push", written, "hf://me/tiny", *PUSH]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert said in err and "cannot push to hf://me/tiny" in err
    assert "hf_mine" not in err and "Traceback" not in err
    repository = logged_in.repositories.get(("models", "me/tiny"))
    assert repository is None or not repository.revisions["main"]


def test_without_a_token_it_says_so_at_once(written: str, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", written, "hf://me/tiny", *PUSH]) == 2
    assert "nobody is logged in on the Hub; run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err
    assert not hub.requests
