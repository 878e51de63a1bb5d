"""S3's faults x (read data, write a checkpoint, read a checkpoint): what becomes of each, by the code that runs use.

``pytest -m slow tests/acceptance/test_storage_fault_table.py -s`` prints the table.
"""

from __future__ import annotations

import io
import itertools
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from s3_server import Fault, FaultProxy, Request, fault_proxy, s3_server

from ldm_core import storage
from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.errors import StorageError
from ldm_core.recipe.settings import DataSettings
from ldm_core.storage import retry, transfer
from ldm_core.storage.options import StorageSettings
from ldm_core.training.checkpoints import files
from ldm_core.training.checkpoints.writer import Writer
from ldm_core.training.feed.examples import Examples

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs the extra dev (moto)")

QUICK = StorageSettings(read_timeout=0.3, connect_timeout=0.5, retries=4, time_limit=5.0)
LIMIT = 20.0
"""Seconds for the whole of an operation under a lasting fault; `QUICK`'s limit holds for each of its requests."""
PICTURES = 12
CHECKPOINT = "s3://box/run/checkpoints/denoiser"
FAULTS: tuple[Fault, ...] = ("500", "503", "reset", "short", "lost", "stall", "stall_write", "403")
WORK = ("read data", "write checkpoint", "read checkpoint")
TIMES = {"once": 1, "twice": 2, "lasting": None}
FAST = {
    ("read data", "reset", "twice"),
    ("read data", "403", "lasting"),
    ("write checkpoint", "stall_write", "once"),
    ("write checkpoint", "503", "lasting"),
    ("read checkpoint", "short", "twice"),
    ("read checkpoint", "500", "lasting"),
}


def _cases() -> Iterator[Any]:
    for work, fault, often in itertools.product(WORK, FAULTS, TIMES):
        if (fault == "stall_write") != (work == "write checkpoint") and fault in ("stall_write", "short", "stall"):
            continue  # a read takes its request at once; a write's answer has no body to stall in
        yield pytest.param(
            work,
            fault,
            often,
            id=f"{work}-{fault}-{often}",
            marks=() if (work, fault, often) in FAST else pytest.mark.slow,
        )


@attrs.define
class Row:
    """A line of the table."""

    work: str
    fault: str
    often: str
    broken: int
    seconds: float
    outcome: str


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with s3_server() as upstream, fault_proxy(upstream) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    print("\n\n| work | fault | times | broken requests | seconds | outcome |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.work} | {row.fault} | {row.often} | {row.broken} | {row.seconds:.1f} | {row.outcome} |")


@pytest.fixture(autouse=True)
def quick(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(transfer, "READ_PART", 2**21)
    monkeypatch.setattr(transfer, "BLOCK", 2**20)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    storage.configure(QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        yield
    storage.configure(None)
    proxy.heal()


def _picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (3, 64, 64), dtype=np.uint8)


def _shards() -> None:
    for shard in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(shard * PICTURES // 2, (shard + 1) * PICTURES // 2):
                data = images.png_bytes(_picture(number))
                member = tarfile.TarInfo(f"{number:04d}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        storage.atomic_write(f"s3://box/data/x-{shard:06d}.tar", buffer.getvalue())


def _read_data() -> None:
    config = TarConfig(url="s3://box/data/x-{000000..000001}.tar", keep_bytes=0)
    examples = Examples(TarDataset(config, Site(size=(64, 64))), (64, 64), DataSettings(), ["image"])
    for number in range(PICTURES):
        assert (np.asarray(examples[number]["image"]) == _picture(number)).all()


def _tensors(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {f"net/state/{i}": torch.randn(1_000_000, generator=generator) for i in range(3)}  # 12 MB


def _write(step: int) -> None:
    """Write a checkpoint as the training loop has it written; its failure is raised."""
    writer = Writer(CHECKPOINT, keep=100, keep_every=0, background=True)
    writer.start(step, _tensors(step), {"identity": "this", "part_steps": {"net": step}})
    writer.wait()
    outcome = writer.outcome()
    assert outcome is not None
    if outcome.error is not None:
        raise outcome.error


def _newest() -> int:
    """The newest checkpoint's step, after every bit of it was compared."""
    found = files.newest(CHECKPOINT, "this").found
    assert found is not None
    there = dict(found.tensors())
    expected = _tensors(found.step)
    assert there.keys() == expected.keys() and all(torch.equal(there[k], expected[k]) for k in expected)
    return found.step


def _of(work: str) -> Callable[[Request], bool]:
    if work == "write checkpoint":
        return lambda r: r.writes
    return lambda r: r.method == "GET" and "list-type" not in r.target  # those whose answer has a body


@pytest.mark.parametrize(("work", "fault", "often"), _cases())
def test_faults(proxy: FaultProxy, table: list[Row], work: str, fault: Fault, often: str) -> None:
    proxy.heal()
    storage.remove(CHECKPOINT, recursive=True)
    _write(1)
    if work == "read data":
        _shards()
    proxy.heal()
    proxy.inject(fault, TIMES[often], _of(work))
    lasts = often == "lasting" or fault == "403"
    begun = time.monotonic()
    said = ""
    try:
        if work == "read data":
            _read_data()
        elif work == "write checkpoint":
            _write(2)
        else:
            assert _newest() == 1
    except StorageError as error:
        said = str(error)
    seconds, broken = time.monotonic() - begun, proxy.broken
    table.append(Row(work, fault, often, broken, seconds, said or "absorbed, bytes equal"))
    assert bool(said) == lasts and seconds < LIMIT
    if lasts:
        assert "s3://box" in said and ("expired" in said if fault == "403" else "(tried" in said)
        assert fault != "403" or broken <= 2  # not asked again; tidying up after it is
    else:
        assert broken == TIMES[often]
    proxy.heal()
    # Nothing is lost: the old checkpoint where the new one failed, the new one where it did not, and all data.
    assert _newest() == (2 if work == "write checkpoint" and not lasts else 1)
    if work == "read data":
        _read_data()
