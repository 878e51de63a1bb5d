"""Sizes before memory: numbers that no model has, counts of parameters without any, names before memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from header_files import PLAIN, Body, copy_run, put, write_run

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.model import build
from ldm_core.recipe import artifacts, sizes
from ldm_core.recipe.resolve import resolve

torch = pytest.importorskip("torch", reason="torch is not installed")
for name in ("bert_text", "vq_ae", "ddim", "cfg"):
    pytest.importorskip(f"ldm_plugin_{name}")

from ldm_core.model.budget import Budget, held_to  # noqa: E402
from ldm_core.model.build import (  # noqa: E402
    make_first_stage,
    make_model,
    require_room,
)
from ldm_core.sampling.pipeline import Pipeline  # noqa: E402


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    write_run(folder)
    return folder


NONSENSE: list[tuple[str, Any]] = [
    ("denoiser.res_blocks", 10**9), ("denoiser.res_blocks", -1), ("denoiser.channels", 10**9),
    ("denoiser.channels", -8),
    ("denoiser.channels", 0), ("denoiser.channel_mult", []), ("denoiser.channel_mult", [0]), ("denoiser.dropout", 1.5),
    ("denoiser.channel_mult", [1] * 10_000), ("denoiser.channel_mult", [10**9]), ("denoiser.heads", 10**9),
    ("denoiser.heads", 0), ("denoiser.transformer_depth", 10**9), ("denoiser.transformer_depth", -3),
    ("denoiser.norm_groups", 0), ("denoiser.attention", [10**18]), ("denoiser.dropout", -0.1),
    ("conditioners.0.layers", 10**9), ("conditioners.0.width", -1), ("conditioners.0.width", 0),
    ("conditioners.0.heads", 10**9), ("conditioners.0.vocab_size", 10**12), ("conditioners.0.length", 10**12),
    ("conditioners.0.length", -1), ("conditioners.0.head_width", -4), ("first_stage.res_blocks", 10**9),
    ("first_stage.codebook_size", 10**12), ("first_stage.codebook_size", -2), ("first_stage.z_channels", -3),
    ("first_stage.discriminator_layers", 10**9), ("first_stage.channel_mult", []), ("first_stage.dropout", 2.0),
    ("schedule", {"use": "vp", "steps": 10**9}), ("schedule", {"use": "vp", "steps": 10**18}),
    ("schedule", {"use": "vp", "steps": -1}), ("image_size", 10**9), ("image_size", [16, 1 << 40]), ("image_size", -16),
    ("image_size", 65536), ("sample.steps", 10**9), ("sample.images", 10**12), ("sample.batch", 10**12),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), NONSENSE)
def test_a_file_of_nonsense_is_refused_in_lines(
    path: str, value: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No network is begun that could not be that of the file; a line says the number."""

    def change(model: Body, stage: Body) -> None:
        put(model["config"], [int(key) if key.isdigit() else key for key in path.split(".")], value)

    changed = copy_run(run, tmp_path / "run", change)
    draw = ["--images", "1", "--steps", "1", "--prompt", "red", "--quiet", "--out", str(tmp_path / "out")]
    with Budget(1 << 22, 10_000):  # nothing beyond is asked of torch
        assert main(["sample", str(changed), *draw]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.startswith("error: ") and len(said.splitlines()) < 8


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("denoiser", {"channels": 1 << 12}),
        ("denoiser", {"res_blocks": 4000}),
        ("denoiser", {"channel_mult": [1, 64]}),
        ("denoiser", {"transformer_depth": 4096}),
        ("conditioners", {"layers": 4096}),
        ("conditioners", {"vocab_size": 1 << 24}),
        ("first_stage", {"codebook_size": 1 << 24}),
        ("first_stage", {"res_blocks": 4096}),
    ],
)
def test_names_and_shapes_are_compared_before_memory_is_taken(
    part: str, change: dict[str, Any], run: Path, tmp_path: Path, catalog: Catalog
) -> None:
    """Numbers that a model might have, and this file has not: less than four times the file is asked for."""

    def larger(model: Body, stage: Body) -> None:
        row = model["config"][part]
        (row[0] if isinstance(row, list) else row).update(change)

    changed = copy_run(run, tmp_path / "run", larger)
    asked = Budget(1 << 40, 1 << 40)
    with asked, pytest.raises(CheckpointError, match="of another architecture"):
        Pipeline.load(str(changed), device="cpu", catalog=catalog)
    held = sum((changed / name).stat().st_size for name in (artifacts.MODEL_FILE, artifacts.STAGE_FILE))
    assert 4 * asked.count < 4 * held + (8 << 20)  # a few megabytes are spared, for the smallest files
    assert asked.made < 20_000


def test_a_model_of_the_right_size_takes_what_it_has(run: Path, catalog: Catalog) -> None:
    asked = Budget(1 << 40, 1 << 40)
    with asked:
        Pipeline.load(str(run), device="cpu", catalog=catalog)
    held = sum((run / name).stat().st_size for name in (artifacts.MODEL_FILE, artifacts.STAGE_FILE))
    assert 4 * asked.count < 2 * held


WHOLE: list[tuple[Callable[[], Any], int]] = [
    (lambda: torch.empty(3, 4), 12), (lambda: torch.zeros((3, 4)), 12), (lambda: torch.ones(size=(3, 4)), 12),
    (lambda: torch.full((3, 4), 9.0), 12), (lambda: torch.randn(3, 4), 12), (lambda: torch.rand([3, 4]), 12),
    (lambda: torch.arange(12), 12), (lambda: torch.arange(4, 16), 12), (lambda: torch.arange(0, 24, 2), 12),
    (lambda: torch.linspace(0, 1, 12), 12), (lambda: torch.linspace(0, 1, steps=12), 12), (lambda: torch.eye(3), 9),
    (lambda: torch.randint(5, (3, 4)), 12), (lambda: torch.randint(0, 5, size=(3, 4)), 12),
    (lambda: torch.randperm(12), 12),
    (lambda: torch.nn.Linear(3, 4), 16), (lambda: torch.nn.Conv2d(2, 3, 3), 57), (lambda: torch.nn.Embedding(5, 4), 20),
    (lambda: torch.eye(3, 4), 12), (lambda: torch.empty(()), 1), (lambda: torch.logspace(0, 1, 12), 12),
]  # fmt: skip


@pytest.mark.parametrize(("make", "values"), WHOLE)
def test_a_budget_counts_what_is_made(make: Callable[[], Any], values: int) -> None:
    spent = Budget(1 << 20, 100)
    with spent:
        made = make()
    assert spent.count == values
    tensors = made.parameters() if isinstance(made, torch.nn.Module) else [made]
    assert sum(math.prod(tensor.shape) for tensor in tensors) == values


def test_nothing_is_made_beyond_a_budget() -> None:
    with pytest.raises(CheckpointError, match="x: these weights are of another"), held_to({"a": (9,)}, "x"):
        torch.empty(1 << 45)  # more than any machine has
    with pytest.raises(CheckpointError, match=r"x: its recipe .* \(ZeroDivisionError"), held_to({"a": (9,)}, "x"):
        1 // 0  # noqa: B018
    with pytest.raises(ConfigError, match="as it is"), held_to({"a": (9,)}, "x"):
        raise ConfigError("as it is")


# --------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    "setting",
    [
        "denoiser.res_blocks=1000000000", "denoiser.channels=1073741824", "denoiser.channel_mult=[1,1000000000]",
        "conditioners.text.layers=1000000000", "first_stage.codebook_size=1000000000000", "image_size=1000000000",
        "schedule.steps=1000000000", "denoiser.transformer_depth=1000000000", "first_stage.res_blocks=2000000000",
        "denoiser.channels=1048576", "denoiser.channel_mult=[1,16000]", "image_size=65536", "denoiser.dropout=1.5",
        "conditioners.text.width=-1", "denoiser.channel_mult=[]", "first_stage.discriminator_layers=1000000000",
    ],
)  # fmt: skip
def test_a_recipe_that_no_machine_holds_is_refused(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ldm_core.config.documents import dump_yaml

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_yaml({**PLAIN, "schedule": {"use": "vp"}, "dataset": {"use": "shapes", "scenes": 4}}))
    with Budget(1 << 44, 50_000):
        assert main(["check", "--recipe", str(recipe), "--quiet", setting]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said


def test_the_count_is_said(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the parameters of a network that is made, and of one that is not."""
    recipe = resolve({**PLAIN, "denoiser": {**PLAIN["denoiser"], "channels": 32}}, catalog)
    stage: Any = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    whole = sum(p.numel() for module in (stage, model) for p in module.parameters())
    require_room(recipe, catalog, 20 * whole)
    with pytest.raises(ConfigError, match=r"at least [\d,]+ parameters, .* GB with their gradients"):
        require_room(recipe, catalog, 14 * whole)
    wide = resolve({**PLAIN, "denoiser": {**PLAIN["denoiser"], "channels": 1 << 20}}, catalog)
    assert sizes.large(wide) and not sizes.large(recipe)
    with pytest.raises(ConfigError, match=r"at least [\d,]{13,} parameters"):
        require_room(wide, catalog, sizes.memory())
    monkeypatch.setattr(build, "MOST_TENSORS", 500)
    long = resolve({**PLAIN, "denoiser": {**PLAIN["denoiser"], "res_blocks": 4096}}, catalog)
    with pytest.raises(ConfigError, match=r"more than 500 tensors"):
        require_room(long, catalog, 1 << 60)


def test_published_models_are_not_counted(catalog: Catalog) -> None:
    from ldm_core.recipe.shipped import load_plain, shipped

    assert [name for name in shipped() if sizes.large(resolve(load_plain(name), catalog))] == []


@pytest.mark.parametrize("key", ["conditioners", "adapters", "observers"])
def test_lists_of_parts_are_bounded(key: str, catalog: Catalog) -> None:
    rows = [{"use": "text", "name": f"c{i}"} for i in range(20_000)]
    with pytest.raises(ConfigError, match=rf"{key}: expected at most 64 components, got 20,000"):
        resolve({key: rows}, catalog)


@attrs.frozen(kw_only=True)
class _Theirs:
    layers: int = 2
    hidden_width: int = 8
    timesteps: int = 10
    offset: int = -1
    attn_dropout: float = 0.0
    dilations: tuple[int, ...] = ()
    rate: int = attrs.field(default=1, metadata={"least": 1, "most": 8})


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"layers": 10**9}, "x.layers: expected at most 4,096, got 1000000000"),
        ({"hidden_width": -1}, "x.hidden_width: expected at least 0, got -1"),
        ({"hidden_width": 10**12}, "x.hidden_width: expected at most 2,147,483,648, got 1000000000000"),
        ({"timesteps": 10**7}, "x.timesteps: expected at most 1,000,000, got 10000000"),
        ({"attn_dropout": 1.5}, "x.attn_dropout: expected at most 1, got 1.5"),
        ({"dilations": [1] * 65}, "x.dilations: expected at most 64 values, got 65"),
        ({"dilations": [1, 10**10, 10**10]}, "x.dilations: expected at most 2,147,483,648, got 10000000000"),
        ({"rate": 9}, "x.rate: expected at most 8, got 9"),
        ({"rate": 0}, "x.rate: expected at least 1, got 0"),
        ({"offset": -5, "layers": 4096, "dilations": [1, 2], "rate": 8, "hidden_width": 1 << 20}, ""),
        ({"layers": True, "rate": "9", "dilations": "12"}, ""),
    ],
)
def test_the_numbers_of_a_plugins_config(plain: dict[str, Any], said: str) -> None:
    assert list(sizes.misfits(plain, _Theirs, "x")) == ([said] if said else [])


def test_memory_is_that_of_the_process() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    assert 1 << 20 < sizes.memory() < 1 << 50
    resource.setrlimit(resource.RLIMIT_AS, (1 << 44, hard))
    try:
        assert sizes.memory() <= 1 << 44
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_memory_that_is_not_there_is_said(error: Exception, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from ldm_core.cli.output import reporting

    with pytest.raises(ConfigError, match=r"not enough memory .*; take fewer images at once"), reporting(as_json):
        raise error
    assert ("not enough memory" in capsys.readouterr().out) is as_json


def test_another_fault_keeps_its_traceback() -> None:
    from ldm_core.cli.output import reporting

    with pytest.raises(RuntimeError, match="shape"), reporting(False):
        raise RuntimeError("shape '[2, 3]' is invalid for input of size 5")
