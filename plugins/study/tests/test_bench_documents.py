"""Files of measurements and their comparison: what comes back, what is refused, who is faster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from ldm_plugin_study.bench.result import document
from ldm_plugin_study.bench.result.comparison import compare, lines
from ldm_plugin_study.bench.result.document import Document, Machine, Peak, Row, Settings, Software
from ldm_plugin_study.bench.result.table import amount, duration
from ldm_plugin_study.bench.result.table import lines as table_lines

from ldm_core.errors import ConfigError, StorageError

RECIPE: dict[str, Any] = {
    "image_size": [32, 32],
    "seed": 0,
    "denoiser": {"use": "unet", "channels": 64},
    "conditioners": [{"use": "text", "width": 8, "name": "text"}],
    "trainer": {"lr": 1e-3},
}


def made(*rows: Row, **changes: Any) -> Document:
    machine = Machine(
        device="cpu", processor="A", cores=2, threads=2, instructions=("avx2",), memory=8_000_000_000, device_memory=0
    )
    software = Software(system="Linux", python="3.12", torch="2.5")
    settings = Settings(batch=8, rounds=4, least=0.1, sampler_steps=4, precisions=("fp32",))
    whole = Document(
        machine=machine,
        software=software,
        recipe=RECIPE,
        settings=settings,
        peaks=(Peak(precision="fp32", size=512, rate=100e9),),
        rows=rows or (row(1.0, 1.1, 1.2, 1.3),),
        notes=("busy",),
        others=0.5,
        memory_by="forks",
    )
    return attrs.evolve(whole, **changes)


def row(*seconds: float, **changes: Any) -> Row:
    own = {"component": "forward", "precision": "fp32", "amount": 8, "flops": 10_000_000_000, "memory": 1000}
    return Row(seconds=seconds, **{**own, **changes})  # type: ignore[arg-type]


def test_a_file_comes_back(tmp_path: Path) -> None:
    url = str(tmp_path / "bench.json")
    document.write(made(), url)
    assert document.read(url) == made()
    plain = json.loads(Path(url).read_text())
    (first,) = plain["rows"]
    assert first["median"] == pytest.approx(1.15) and first["quartiles"] == pytest.approx([1.075, 1.225])
    assert first["flop_rate"] == pytest.approx(10e9 / 1.15) and first["share"] == pytest.approx(0.1 / 1.15)


def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    url = tmp_path / "bench.json"
    url.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        document.write(made(), str(url))
    assert url.read_text() == "mine"
    document.write(made(), str(url), force=True)
    assert document.read(str(url)) == made()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "holds no measurement"),
        ({"rows": 3}, "rows: expected a list"),
        ({"others": "many"}, "others: expected a number"),
        ({"more": 1}, "more: unknown key"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    url = tmp_path / "bench.json"
    url.write_text(json.dumps({**made().plain(), **change}))
    with pytest.raises(ConfigError, match=said):
        document.read(str(url))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        document.read(str(tmp_path / "nothing.json"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError, match="holds no measurement"):
        document.read(str(tmp_path / "list.json"))
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        document.read(str(tmp_path / "text.json"))
    plain = made().plain()
    plain["rows"][0]["seconds"] = []
    (tmp_path / "empty.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match="seconds above 0"):
        document.read(str(tmp_path / "empty.json"))


def test_ratios_and_who_is_faster() -> None:
    old = made(row(2.0, 2.0, 2.2, 2.4))
    (half,) = compare(old, made(row(1.0, 1.0, 1.1, 1.2))).changes
    assert half.ratio == pytest.approx(2.0) and half.verdict == "faster" and half.memory == 1.0
    assert half.least == pytest.approx(2.0 / 1.125) and half.most == pytest.approx(2.25 / 1.0)
    (more,) = compare(old, made(row(3.0, 3.0, 3.1, 3.2, memory=2000))).changes
    assert more.verdict == "slower" and more.memory == 2.0 and more.ratio == pytest.approx(2.1 / 3.05)
    (same,) = compare(old, made(row(1.9, 2.1, 2.3, 2.3, memory=None))).changes
    assert same.verdict == "same" and same.memory is None
    assert same.old == pytest.approx(2.1 / 8), "seconds an image"


def test_rows_of_one_alone_and_other_programs_are_said() -> None:
    old = made(row(1.0), row(1.0, component="step"))
    new = made(row(1.0), row(1.0, precision="bf16"), software=Software(system="Linux", python="3.12", torch="2.6"))
    found = compare(old, new)
    assert found.missing == ("forward bf16: only now", "step fp32: only before")
    assert found.software == ("torch: '2.5' -> '2.6'",)
    assert "another program: torch: '2.5' -> '2.6'" in lines(found)
    assert found.plain()["changes"][0]["verdict"] == "same"


def test_another_machine_recipe_or_batch_is_refused_by_name() -> None:
    other = made(
        machine=attrs.evolve(made().machine, processor="B", threads=1),
        recipe={
            **RECIPE,
            "seed": 5,
            "trainer": {"lr": 1.0},
            "denoiser": {"use": "unet", "channels": 96},
            "conditioners": [],
        },
        settings=attrs.evolve(made().settings, batch=4, rounds=9),
    )
    with pytest.raises(ConfigError) as told:
        compare(made(), other)
    said = str(told.value)
    for line in (
        "machine.processor: 'A' -> 'B'",
        "machine.threads: 2 -> 1",
        "recipe.denoiser.channels: 64 -> 96",
        "recipe.conditioners",
        "settings.batch: 8 -> 4",
        "`anyway`",
    ):
        assert line in said
    assert "seed" not in said and "lr" not in said and "rounds" not in said
    found = compare(made(), other, anyway=True)
    assert len(found.changes) == 1 and len(found.differences) == 5
    assert any(line.startswith("not the same: recipe.denoiser.channels") for line in lines(found))


def test_a_weights_place_is_no_difference() -> None:
    stage = {"use": "vq_ae", "weights": "/a", "sha256": "1"}
    old = made(recipe={**RECIPE, "first_stage": stage})
    assert compare(old, made(recipe={**RECIPE, "first_stage": {**stage, "weights": "/b", "sha256": "2"}})).changes


def test_the_table_has_every_number() -> None:
    shares = {"kinds": {"convolutions": 0.625, "products": 0.25}}
    train = row(2.0, component="train", kinds={"products": 0.75, "norms": 0.01})
    text = "\n".join(table_lines(made(row(1.0, 1.1, 1.2, 1.3, **shares), train)))
    kinds = text[text.index("TIME BY KIND") :].splitlines()[:3]
    assert [line.split() for line in kinds] == [
        ["TIME", "BY", "KIND", "PRODUCTS", "CONVOLUTIONS", "NORMS"],
        ["forward", "fp32", "25.0", "%", "62.5", "%"],
        ["train", "fp32", "75.0", "%", "1.0", "%"],
    ]
    for word in ("1.15 s", "6.957 images/s", "10 G", "8.7 G", "8.7 %", "1 kB", "100 GFLOP/s", "note: busy"):
        assert word in text
    assert [duration(s) for s in (12.0, 0.0123, 4e-6)] == ["12 s", "12.3 ms", "4 us"]
    assert [amount(n) for n in (12, 999_900, 1.234e6, 5e12)] == ["12 ", "1 M", "1.23 M", "5 T"]
