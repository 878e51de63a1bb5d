"""A whole run with its data and its folder on S3, over a line that breaks now and then: as the same run on disk."""

from __future__ import annotations

import io
import random
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from s3_server import SECRET, Fault, Request, fault_proxy, s3_server
from safetensors.torch import load
from training_runs import go

from ldm_core import storage
from ldm_core.data import images
from ldm_core.storage import retry

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs the extra dev (moto)")

FAULTS: tuple[Fault, ...] = ("500", "503", "reset", "short", "lost", "stall")
SHARE = 0.02
"""Of the requests, each kind of fault."""


def _shards(folder: str) -> str:
    for shard in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(12):
                picture = np.random.default_rng([shard, number]).integers(0, 256, (3, 16, 16), dtype=np.uint8)
                data = images.png_bytes(picture)
                member = tarfile.TarInfo(f"{shard}{number:04d}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        storage.atomic_write(storage.join(folder, f"x-{shard:06d}.tar"), buffer.getvalue())
    return storage.join(folder, "x-{000000..000001}.tar")


def _weights(out: str) -> dict[str, torch.Tensor]:
    return load(storage.read_bytes(storage.join(out, "model.safetensors")))


@pytest.mark.slow
def test_a_run_on_s3_over_faults_ends_as_one_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.05)
    every = ["trainer.checkpoint_every=2", "trainer.log_every=1"]
    go(tmp_path / "run", *every, dataset={"use": "tar", "url": _shards(str(tmp_path / "data"))})
    chance = random.Random(3)

    def now_and_then(_: Request) -> bool:
        return chance.random() < SHARE

    with s3_server() as upstream, fault_proxy(upstream) as proxy, warnings.catch_warnings():
        warnings.simplefilter("ignore", storage.StorageWarning)
        settings = {"endpoint_url": proxy.address, "read_timeout": 1.0, "retries": 8, "time_limit": 30.0}
        try:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
            url = _shards("s3://box/data")
            monkeypatch.delenv("AWS_ENDPOINT_URL")
            for fault in FAULTS:
                proxy.inject(fault, None, now_and_then)
            begun = time.monotonic()
            go("s3://box/run", *every, dataset={"use": "tar", "url": url, "keep_bytes": 0}, storage=settings)
            seconds = time.monotonic() - begun
            seen, broken = list(proxy.seen), proxy.broken
            proxy.heal()
            there = _weights("s3://box/run")
            written = storage.list_files("s3://box/run", recursive=True)
            everything = b"".join(storage.read_bytes(file.url) for file in written)
        finally:
            storage.configure(None)
    here = _weights(str(tmp_path / "run"))
    print(f"\n{len(seen)} requests, {broken} of them broken, {seconds:.0f} s")
    assert here.keys() == there.keys() and all(torch.equal(here[k], there[k]) for k in here)
    assert broken >= 10 and {fault for _, _, fault in seen if fault} >= {"500", "503", "reset", "lost"}
    local = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(written) == len(local)
    assert SECRET.encode() not in everything and b"X-Amz-Signature" not in everything
