"""Every value in the headers of a model and of a first stage, changed to what should not be there.

Each command runs in a process of its own under an audit hook: whatever a header says, nothing is called, no file is
opened beside the weights and what the command writes, and the answer is a result or a line, within seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_commands import Job, run_all
from header_files import PLAIN, VOCABULARY, Body, copy_run, leaves, put, read_file, write_run

from ldm_core.catalog import Catalog
from ldm_core.data import images
from ldm_core.recipe import artifacts
from ldm_core.recipe.resolve import resolve

pytest.importorskip("torch", reason="torch is not installed")
for name in ("bert_text", "vq_ae", "ddim", "cfg", "autoguidance"):
    pytest.importorskip(f"ldm_plugin_{name}")

DEEP = "@deep@"
"""Stands for 3,000 lists within each other, which no encoder writes."""
QUICK = 40


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run, and beside it what a header might point to."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    write_run(folder / "run")
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(3, 16, 16)
    (folder / "run" / "picture.png").write_bytes(images.png_bytes(picture, {}))
    outside = folder / "outside"
    write_run(outside / "run")
    (outside / "vocab.txt").write_text(VOCABULARY)
    os.mkfifo(outside / "fifo")
    return folder


def values(outside: Path) -> list[Any]:
    """What a leaf is changed to."""
    return [
        str(outside / "vocab.txt"), str(outside / "run"), str(outside / "run" / "model.safetensors"),
        str(outside / "fifo"), "/dev/zero", "/etc/passwd", "../outside/vocab.txt", "~/.ssh/id_rsa", f"file://{outside}",
        "http://127.0.0.1:9/x", "https://127.0.0.1:9/x.safetensors", "s3://bucket/key", "github://a:b@main/x",
        "simplecache::http://127.0.0.1:9/x", "filecache::s3://bucket/key", "zip://x::http://127.0.0.1:9/y.zip",
        "memory://x", 10**9, 10**18, 1 << 20, 10**300, -1, 0, -1.5, 1e308, True, None, "", [], {}, [[]], "1", ["text"],
        {"use": "text"}, {"a": {"b": {"c": 1}}}, [1] * 5000, DEEP, "/etc/a\0b", "\x1b[31mred\x07\n", "x" * 20_000,
        "/" + "a" * 5000, "\ud800", [None], {"url": "http://127.0.0.1:9/x"},
    ]  # fmt: skip


def mutations(base: Path) -> list[tuple[str, tuple[Any, ...], Any]]:
    """(file, path of a value in its metadata, the new value), in an order that is always the same."""
    _, model, _ = read_file(base / "run" / artifacts.MODEL_FILE)
    _, stage, _ = read_file(base / "run" / artifacts.STAGE_FILE)
    places = [(name, path) for name, body in (("model", model), ("stage", stage)) for path in leaves(body)]
    added = [("model", ("config", *path)) for path in ADDED]
    made = [(name, path, new) for name, path in (*places, *added) for new in values(base / "outside")]
    random.Random(0).shuffle(made)
    return made


ADDED = (
    ("storage",), ("observers",), ("dataset",), ("trainer", "init_from"), ("first_stage_trainer", "lpips"),
    ("trainer", "deepspeed"), ("first_stage", "weights"), ("guidance", "model"), ("data", "cache"), ("adapters",),
)  # fmt: skip
"""Places that a header may add where it had none."""


def dumped(body: Body) -> str:
    return json.dumps(body).replace(f'"{DEEP}"', "[" * 3000 + "]" * 3000)


def command(number: int, model: Path, base: Path, out: Path) -> list[str]:
    """One of the commands that read a header."""
    run, stage = str(model), str(model / artifacts.STAGE_FILE)
    data = ["--data", "shapes", "dataset.scenes=4", "dataset.val_scenes=2"]
    draw = ["--images", "1", "--steps", "1", "--prompt", "a red circle", "--out", str(out / "drawn")]
    return [
        ["sample", "--weights", run, *draw],
        ["convert", run, str(out / "converted"), "--to", "ldm"],
        ["inspect", run],
        ["check", "--first-stage", stage, *data],
        ["check", "--init-from", run, *data],
        ["sample", str(base / "run"), "guidance.use=autoguidance", f"guidance.model={run}", *draw],
        ["sample", run, "--guidance", "none", *draw],
        ["convert", stage, str(out / "stage.ckpt"), "--to", "compvis"],
        ["reconstruct", stage, str(base / "run" / "picture.png"), "--out", str(out / "rebuilt")],
        ["ema", run, "--width", "0.1", "--out", str(out / "averaged.safetensors")],
        ["encode", "--first-stage", stage, *data, "image_size=16", "--out", str(out / "moments"), "--quiet"],
    ][number % 11]


def jobs(base: Path, folder: Path, chosen: list[tuple[str, tuple[Any, ...], Any]]) -> Iterator[Job]:
    from ldm_core.cli import main

    for number, (name, path, new) in enumerate(chosen):
        here = folder / str(number)

        def change(model: Body, stage: Body, name: str = name, path: Any = path, new: Any = new) -> None:
            body = model if name == "model" else stage
            if path[0] == "config" and len(path) == 3 and not isinstance(body["config"].get(path[1]), dict):
                body["config"][path[1]] = {"use": "autoguidance"} if path[1] == "guidance" else {}
            if path == ("config", "guidance", "model"):
                body["config"]["guidance"] = {"use": "autoguidance"}
            put(body, path, new)

        run = copy_run(base / "run", here / "run", change, dumped)
        argv = command(number, run, base, here)

        def work(argv: list[str] = argv, here: Path = here) -> int:
            os.environ.update(LDM_CACHE=str(here / "cache"), TMPDIR=str(here), HOME=str(here))
            os.chdir(here)
            return main(argv)

        shown = f"{argv[0]} with {name} {'.'.join(map(str, path))} = {str(new)[:40]!r}"
        yield Job(shown, work, [here, base / "run"], here / "report.json")


def fuzzed(base: Path, folder: Path, chosen: list[Any]) -> dict[str, Any]:
    """Run them all; counts of outcomes, what is wrong, the slowest."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    slowest: tuple[float, str] = (0.0, "")
    for seen in run_all(jobs(base, folder, chosen), at_once=2, seconds=10):
        counts[seen["outcome"]] += 1
        slowest = max(slowest, (seen["seconds"], seen["name"]))
        if seen["outcome"] not in ("done", "refused") or "\x1b" in seen["said"]:
            about = seen.get("called") or seen.get("opened") or seen["said"][-600:]
            wrong.append(f"{seen['name']}: {seen['outcome']}: {about}")
    return {"counts": dict(counts), "wrong": wrong, "slowest": slowest}


@pytest.fixture(scope="module")
def warm(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands import, imported once, before processes are forked."""
    from ldm_core.cli import main
    from ldm_core.model.build import require_room

    out = tmp_path_factory.mktemp("warm")
    for number in (0, 1, 2, 3, 5, 8, 9, 10):
        assert main(command(number, base / "run", base, out / str(number))) == 0
    require_room(resolve(PLAIN, catalog := Catalog.discover()), catalog, 1 << 40)  # torch makes itself a folder for it
    for module in ("s3fs", "aiohttp", "ldm_plugin_autoguidance.guidance"):
        if module not in sys.modules:
            pytest.importorskip(module) if "." not in module else __import__(module)


@pytest.mark.parametrize("count", [QUICK, pytest.param(3 * QUICK, marks=pytest.mark.slow)])
def test_a_sample_of_changed_headers(count: int, base: Path, warm: None, tmp_path: Path) -> None:
    told = [m for m in mutations(base) if m[1][:2] in {("config", p[0]) for p in ADDED} or "tokenizer" in m[1]]
    chosen = [*told[: count // 2], *mutations(base)[: count // 2]]
    found = fuzzed(base, tmp_path, chosen)
    assert not found["wrong"], "\n".join(found["wrong"][:10])
    assert sum(found["counts"].values()) == len(chosen)
    assert found["counts"]["done"] > 10 and found["counts"]["refused"] > 10


def test_the_hook_sees_what_it_is_to_see(base: Path, tmp_path: Path) -> None:
    """A command that opens another's file, one that calls, one that hangs and one that fails are told apart."""
    import socket

    def opens() -> int:
        (base / "outside" / "vocab.txt").read_text()
        return 0

    def calls() -> int:
        socket.socket().connect_ex(("127.0.0.1", 9))
        return 0

    def spins() -> int:
        while True:
            pass

    def fails() -> int:
        raise RuntimeError("no room")

    works: dict[str, Callable[[], int]] = {"opened": opens, "called": calls, "traceback": fails, "refused": lambda: 2}
    works["hang"] = spins
    made = (Job(name, work, [tmp_path], tmp_path / name) for name, work in works.items())
    seen = {each["name"]: each["outcome"] for each in run_all(made, seconds=1)}
    assert seen == {name: name for name in works}


@pytest.mark.slow
def test_every_value_of_the_headers(base: Path, warm: None, tmp_path: Path) -> None:
    """2,400 changes, each value of the headers several times."""
    chosen = list(itertools.islice(mutations(base), int(os.environ.get("LDM_FUZZ", "2400"))))
    found = fuzzed(base, tmp_path, chosen)
    print(f"\n{sum(found['counts'].values())} changes: {found['counts']}, slowest {found['slowest']}")
    assert not found["wrong"], f"{len(found['wrong'])} wrong:\n" + "\n".join(found["wrong"][:30])
