"""The page of a run: its content, its safety, its size, and runs that are broken or half-written."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written_runs
from ldm_plugin_report import pictures
from ldm_plugin_report.choices import differences, parts_of, words
from ldm_plugin_report.events import Diary
from ldm_plugin_report.page import page as pages
from ldm_plugin_report.page.figures import caption
from ldm_plugin_report.page.html import data_block, hash_of, tag, text
from ldm_plugin_report.run import read

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.data import images
from ldm_core.errors import DataError

CATALOG = Catalog.discover()
ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "' onload='x",
)


class Seen(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag if tag in self.inside else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        (self.inside[self._open] if self._open else self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def made(*urls: str) -> tuple[str, Seen]:
    found = pages.page([read(url) for url in urls], catalog=CATALOG)
    return found, Seen(found)


def require_safe(found: str, seen: Seen) -> None:
    """Nothing from elsewhere, no handler, two scripts of ours, and a policy that names them by hash."""
    assert [t for t, _ in seen.tags].count("script") == 2 and [t for t, _ in seen.tags].count("style") == 1
    data, script = seen.inside["script"]
    json.loads(data)
    policy = next(a["content"] for t, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and hash_of(script) in policy and hash_of(seen.inside["style"][0]) in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for name, attributes in seen.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], (name, attributes)
        for key in ("src", "href"):
            value = attributes.get(key) or ""
            assert re.match(r"data:image/(png|webp|jpeg);base64,[A-Za-z0-9+/=]+$|#[a-z]+$|$", value), value[:80]
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {t for t, _ in seen.tags}
    assert "http://" not in found.replace("http://www.w3.org/2000/svg", "") and "https://" not in found


@pytest.fixture
def run(tmp_path: Path) -> str:
    return written_runs.write(str(tmp_path / "demo"))


def test_a_page_holds_what_the_run_was(run: str) -> None:
    diary = Diary(run)
    diary.write("start", machine={"processor": "a CPU", "threads": 2})
    diary.write("message", text=f"something in {run}/x was left out", level="warning")
    diary.write("message", text="data: 24 scenes", level="info")
    diary.write("end", status="done")
    found, seen = made(run)
    require_safe(found, seen)
    for said in (
        *("a red circle", "seed 0", "step 200", "20.50 dB", "held-out loss", "0.4", "100", "900 MiB", "unet", "a CPU"),
        *(
            "something in demo/x was left out",
            "24 scenes",
            "cat, dog",
            "ldm-core 0.1.0",
            "first stage",
            "default [1, 2, 4]",
        ),
        "reconstructions of 8 held-out pictures",
    ):
        assert said in seen.text, said
    assert str(Path(run).parent) not in found, "no place of the machine"
    ids = [a["id"] for t, a in seen.tags if t == "section" and a.get("id")]
    assert ids == [
        "samples",
        "previews",
        "reconstructions",
        "curves",
        "metrics",
        "times",
        "warnings",
        "recipe",
        "parts",
        "data",
    ]
    charts = json.loads(seen.inside["script"][0])
    loss = next(c for c in charts if [line["label"] for line in c["lines"]] == ["training", "held out"])
    assert loss["lines"][0]["points"][0] == [10, pytest.approx(2.0 * 10**-0.3, rel=1e-5)]
    assert len([t for t, a in seen.tags if t == "svg"]) == len(charts) and 'd="M' in found
    assert len(read(run).missing) == 0 and "Not in this report" not in seen.text


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    attack = " ".join(ATTACKS)
    recipe = written_runs.resolved()
    recipe |= {attack: attack, "dataset": {"use": attack, "url": attack, attack: [attack]}}
    recipe["denoiser"] |= {attack: {attack: attack}}
    measured = [{**row, attack: 1.0} for row in written_runs.rows()] + [
        {"stage": attack, "step": 1, "loss": 1, "images_per_second": 2}
    ]
    header = {"versions": {attack: attack}, "class_names": {attack: [attack]}, "numbers": {attack: attack}}
    url = written_runs.write(
        str(tmp_path / "a<b>&'\"c"), recipe=recipe, measured=measured, prompts=[attack, *ATTACKS], header=header
    )
    diary = Diary(url)
    diary.write("start", machine={"processor": attack})
    for level in ("warning", "info", attack):
        diary.write("message", text=attack, level=level)
    diary.write("stage", stage=attack)
    diary.write("end", status=attack)
    row = {
        "values": {attack: {"value": attack, "interval": [attack, 1]}},
        "of": attack,
        "against": attack,
        "source": attack,
    }
    for name, body in (
        ("bad_examples.txt", attack),
        ("evaluation.json", json.dumps({"kind": "evaluation", "line": attack, "metrics": [row, 3, {"values": 4}]})),
        (
            "datasheet.json",
            json.dumps({"parts": [{"title": attack, "keys": [{"name": attack}], "unreadable": attack}, 7]}),
        ),
    ):
        storage.atomic_write(storage.join(url, name), body)
    other = written_runs.write(str(tmp_path / "other"))
    for urls in ([url], [url, other]):
        found, seen = made(*urls)
        require_safe(found, seen)
        assert "<script>alert(1)</script>" in seen.text and "onerror=alert(1)" in seen.text


def test_texts_are_escaped_and_blocks_of_data_cannot_be_left() -> None:
    assert tag("p", "<b>", title='"x') == '<p title="&quot;x">&lt;b&gt;</p>'
    assert text("a\x00\x1b[31m") == "a\\x00\\x1b[31m"
    assert "</script" not in str(data_block(["</script><!--"], "d"))[:-9] and "\\u003c" in data_block(["<"], "d")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("recipe.yaml", b"a: [", "recipe.yaml"),
        ("recipe.yaml", b"- 1\n", "recipe.yaml is no recipe"),
        ("recipe.yaml", None, "recipe.yaml is missing"),
        ("metrics.jsonl", None, "metrics.jsonl is missing"),
        ("metrics.jsonl", b"\x00\xff\n{}\n[1]\n{half", "3 lines do not read"),
        ("model.safetensors", b"short", "model.safetensors does not read"),
        ("model.safetensors", None, "not trained to its end"),
        ("reconstructions.png", b"no picture", ""),
        ("samples/0001.png", b"\x89PNG\r\n\x1a\n half", ""),
        ("previews/samples-00000100.png", b"", ""),
        ("report.jsonl", b'{"kind": 3}\nx', ""),
        ("evaluation.json", b"{", "evaluation.json does not read"),
    ],
)
def test_broken_runs_give_what_there_is(run: str, name: str, content: bytes | None, said: str) -> None:
    place = Path(run) / name
    if content is None:
        place.unlink()
    else:
        place.write_bytes(content)
    found, seen = made(run)
    require_safe(found, seen)
    assert said in seen.text and "a red circle" in seen.text


def test_a_run_of_a_recipe_alone_and_no_run(run: str, tmp_path: Path) -> None:
    for entry in Path(run).iterdir():
        if entry.name != "recipe.yaml":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    facts = read(run)
    assert facts.state == "stopped" and len(facts.missing) == 5
    assert "metrics.jsonl is missing" in made(run)[1].text
    with pytest.raises(DataError, match="is no run's folder"):
        read(str(tmp_path / "nothing"))


def test_rows_of_any_kind_are_survived(run: str) -> None:
    odd: list[Any] = [
        *({"stage": "denoiser", "step": 10**30, "loss": 1.0}, {"stage": "denoiser", "step": -5, "loss": 1.0}),
        *(
            {"stage": "denoiser", "step": 1, "loss": 10**400},
            {"stage": "denoiser", "step": 2, "loss": None, "time": "x"},
        ),
        *({"stage": "denoiser", "step": 3, "loss": [1]}, {"stage": "denoiser", "step": 4, "loss": True}),
        {"stage": "denoiser", "step": 5, "loss": 1e308, "images_per_second": -1},
    ]
    lines = [json.dumps(row) for row in odd] + [
        '{"stage": "denoiser", "step": 6, "loss": NaN}',
        '{"stage": 4, "step": 1}',
    ]
    (Path(run) / "metrics.jsonl").write_text("\n".join(lines))
    found, seen = made(run)
    require_safe(found, seen)
    assert "the loss was not finite in 1 measured step(s)" in seen.text


def test_large_runs_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written_runs.write(str(tmp_path / "demo"), previews=range(10, 300, 10))
    noise = images.png_bytes(written_runs.picture(0, (96, 96)), {"prompt": "noise", "seed": "1"})
    for number in range(80):
        (Path(run) / "samples" / f"{number:04d}.png").write_bytes(noise)
    monkeypatch.setattr(pages, "MOST_BYTES", 450_000)
    found, seen = made(run)
    assert 100_000 < len(found) < 450_000 and re.search(r"\d+ of 80 samples", seen.text)
    assert "step 10" in seen.text and "step 290" in seen.text, "the first and the last preview are there"
    facts = read(run)
    assert [each.number for each in pictures.spread(facts.samples, 3)] == [0, 40, 79]


def test_reconstructions_are_cut_out_of_their_sheet(run: str) -> None:
    facts = read(run)
    assert facts.reconstructions is not None
    found = pictures.pairs(facts.reconstructions.data(), (16, 16), budget=10**6, side=512)
    assert len(found) == 3 and found[0].original.width == 16
    import base64

    for number, pair in enumerate(found):
        for one, by in ((pair.original, 1), (pair.made, 2)):
            pixels = images.decode_image(base64.b64decode(one.src.partition(",")[2]))
            np.testing.assert_array_equal(pixels, written_runs.picture(number) // by)
    assert pictures.pairs(facts.reconstructions.data(), (16, 20), budget=10**6, side=512) == []
    data = images.png_bytes(written_runs.picture(0, (300, 400)))
    small = pictures.shown(data, "x", budget=9000, side=200)
    assert max(small.width, small.height) <= 200 and len(small.src) < 12_100 and small.src.startswith("data:image/")


def test_choices_are_marked_against_the_defaults_of_their_parts() -> None:
    parts = {part.key: part for part in parts_of(written_runs.resolved(), CATALOG)}
    denoiser = {c.key: c for c in parts["denoiser"].choices}
    assert denoiser["channels"].changed and denoiser["channels"].default == "128"
    assert not denoiser["transformer_depth"].changed and parts["denoiser"].by == "ldm-core 0.1.0"
    assert {c.key: c.value for c in parts["recipe"].choices if c.changed} == {"image_size": "16"}
    unknown = parts_of({"denoiser": {"use": "nobody", "width": 3}}, CATALOG)[1]
    assert unknown.by == "" and not unknown.choices[0].changed and unknown.choices[0].default is None
    assert words("/somewhere/data/cats") == "…/cats"
    assert "secret" not in words("https://me:secret@host/x?token=secret")


def test_differences_of_recipes_come_in_the_order_of_the_parts() -> None:
    first, second = (parts_of(written_runs.resolved(**c), CATALOG) for c in ({}, {"seed": 3, "sampler": "ddim"}))
    found = differences([first, second])
    assert [d.key for d in found if d.matters][:2] == ["seed", "sampler"]
    assert found[0].values == ("0", "3") and not next(d for d in found if d.key == "sampler.eta").matters


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"prompt": "a face (1)"}, "a face (1)"),
        ({"class_label": "dress (3)"}, "dress"),
        ({"box_labels": "green square (11), orange star (25)", "boxes": "[[0, 0, 1, 1]]"}, "green square, orange star"),
        ({"class_label": "3"}, "3"),
        ({"segmentation": "map of 8x8, classes sky (0), sea (2); sha256 00ff"}, "map of sky, sea"),
    ],
)
def test_a_caption_names_classes_without_their_numbers(known: dict[str, str], said: str) -> None:
    assert caption(pictures.Shown("", 8, 8, known)) == said
