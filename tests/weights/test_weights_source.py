"""Weights as files, folders, several files that are one, and at remote places; the configs beside them."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from ldm_core import storage
from ldm_core.contracts.codec import Source, TensorFile
from ldm_core.errors import CheckpointError, ConfigError, LDMError, StorageError
from ldm_core.weights.source import open_source

WEIGHT = torch.arange(6.0).reshape(2, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as diffusers writes it, one of its models in two files."""
    root = tmp_path / "pipeline"
    (root / "unet").mkdir(parents=True)
    (root / "vae").mkdir()
    (root / "model_index.json").write_text('{"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"]}')
    (root / "unet" / "config.json").write_text('{"sample_size": 64, "act_fn": "silu"}')
    save_file({"w": WEIGHT}, root / "vae" / "diffusion_pytorch_model.safetensors")
    save_file({"a": WEIGHT}, root / "unet" / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file({"b": -WEIGHT, "c": WEIGHT[0]}, root / "unet" / "model-00002-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", **dict.fromkeys("bc", "model-00002-of-00002.safetensors")}
    index = {"metadata": {"total_size": 60}, "weight_map": places}
    (root / "unet" / "model.safetensors.index.json").write_text(json.dumps(index))
    (root / ".cache").mkdir()
    (root / ".cache" / "hidden.json").write_text("{}")
    return root


def test_a_folder(folder: Path) -> None:
    source = open_source(str(folder), {"image_size": 64})
    assert isinstance(source, Source) and source.folder and source.given == {"image_size": 64}
    assert list(source.names) == [
        "model_index.json",
        "unet/config.json",
        "unet/model-00001-of-00002.safetensors",
        "unet/model-00002-of-00002.safetensors",
        "unet/model.safetensors.index.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert source.config("unet/config.json") == {"sample_size": 64, "act_fn": "silu"}
    assert source.config("scheduler/config.json") is None and source.text("vocab.txt") is None
    file = source.tensors("vae/diffusion_pytorch_model.safetensors")
    assert isinstance(file, TensorFile) and torch.equal(file.read("w"), WEIGHT)
    assert source.tensors("vae/diffusion_pytorch_model.safetensors") is file
    assert file.url == str(folder / "vae" / "diffusion_pytorch_model.safetensors")


def test_several_files_are_one(folder: Path) -> None:
    source = open_source(str(folder))
    for name in ("unet/model.safetensors", "unet/model.safetensors.index.json"):
        file = source.tensors(name)
        assert isinstance(file, TensorFile) and list(file.infos) == ["a", "b", "c"]
        assert torch.equal(file.read("b"), -WEIGHT) and file.metadata == {"format": "pt"}
        assert file.container == "safetensors"
    alone = open_source(str(folder / "unet" / "model.safetensors.index.json"))
    assert torch.equal(alone.tensors().read("c"), WEIGHT[0])
    index = folder / "unet" / "model.safetensors.index.json"
    index.rename(folder / "unet" / "model.safetensors.index.fp16.json")
    assert list(open_source(str(folder)).tensors("unet/model.fp16.safetensors").infos) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({}, "weight_map"),
        ({"a": "../vae/diffusion_pytorch_model.safetensors"}, "no file beside it"),
        ({"a": 3}, "no file beside it"),
        ({"a": "model-00003.safetensors"}, "not there"),
        ({"a": "model-00001-of-00002.safetensors", "z": "model-00001-of-00002.safetensors"}, "do not fit at 'z'"),
        ({"b": "model-00002-of-00002.safetensors"}, "do not fit at 'c'"),
        ({"a": ".."}, "no file beside it"),
        ({"a": ""}, "no file beside it"),
    ],
)
def test_an_index_that_lies(places: Any, says: str, folder: Path) -> None:
    (folder / "unet" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=says):
        open_source(str(folder)).tensors("unet/model.safetensors")


def test_names_that_lead_outside(folder: Path) -> None:
    (folder.parent / "secret.json").write_text("{}")
    source = open_source(str(folder))
    for name in ("../secret.json", "/etc/passwd", "unet/../../secret.json", "", "a\\b.json", "C:x.json", "x\n.json"):
        with pytest.raises(CheckpointError):
            source.config(name)
    with pytest.raises(CheckpointError, match="say which file of tensors"):
        save_file({"w": WEIGHT}, folder / "more.safetensors")
        (folder / "unet" / "model.safetensors.index.json").unlink()
        open_source(str(folder)).tensors()


def test_a_file_and_what_lies_beside_it(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": WEIGHT}}, tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text(
        "model:\n  base_learning_rate: 1.0e-6\n  target: os.system\n  params: {ddconfig: {ch: 128, ch_mult: [1, 2]}}\n"
    )
    source = open_source(str(tmp_path / "model.ckpt"))
    assert not source.folder and list(source.names) == ["model.ckpt", "model.yaml"]
    assert source.config("model.yaml") == {
        "model": {
            "base_learning_rate": 1e-6,
            "target": "os.system",
            "params": {"ddconfig": {"ch": 128, "ch_mult": [1, 2]}},
        }
    }
    assert torch.equal(source.tensors().read("w"), WEIGHT)
    with pytest.raises(CheckpointError, match="is one file"):
        source.tensors("other.ckpt")
    with pytest.raises(CheckpointError, match="no such file"):
        open_source(str(tmp_path / "none.ckpt"))
    assert source.text("model.yaml", limit=1000) == (tmp_path / "model.yaml").read_bytes()
    with pytest.raises(CheckpointError, match="more than 10 bytes"):
        source.text("model.yaml", limit=10)


BAD_CONFIGS = {
    "tag.yaml": b"a: !!python/object/apply:os.system ['touch canary']\n",
    "tag2.yaml": b"!!python/name:os.system\n",
    "laughs.yaml": b"a0: &a0 [x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)),
    "itself.yaml": b"a: &a [*a]\n",
    "merges.yaml": b"a0: &a0 {x: 1}\n"
    + b"".join(b"a%d: &a%d {<<: *a%d, x%d: 1}\n" % (i, i, i - 1, i) for i in range(1, 1200)),  # 720,000 keys
    "merges-itself.yaml": b"a: &a {<<: *a, b: 1}\n",
    "deep.yaml": b"a: " + b"[" * 2000,
    "deep.json": b'{"a":' + b"[" * 100_000,
    "long.yaml": b"a: 1\n" + b"#" * (2 << 20),
    "month.yaml": b"a: 2001-13-45\n",
    "list.json": b"[1]",
    "open.json": b'{"a":',
    "latin.yaml": b"a: \xff\xfe\n",
    "twice.yaml": b"a: 1\na: 2\n",
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_configs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(BAD_CONFIGS[name])
    began = time.process_time()
    with pytest.raises(CheckpointError, match=name):
        open_source(str(tmp_path)).config(name)
    assert time.process_time() - began < 10
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_merges_of_the_same_keys(tmp_path: Path) -> None:
    """9 ** 11 merged keys, all of them doubled: some PyYAMLs drop doubles, others copy them all."""
    text = b"a0: &a0 {k: 1, l: 2}\n" + b"".join(
        b"a%d: &a%d {<<: [%s], x%d: 1}\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9), i) for i in range(1, 12)
    )
    (tmp_path / "doubles.yaml").write_bytes(text)
    began = time.process_time()
    try:
        read = open_source(str(tmp_path)).config("doubles.yaml")
    except CheckpointError:
        read = None
    assert time.process_time() - began < 10
    assert read is None or len(read["a11"]) == 13


def test_hashes(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_source(str(path)).sha256() == found
    open_source(str(path), sha256=found.upper())
    with pytest.raises(CheckpointError, match=f"{found} and not {'0' * 64}"):
        open_source(str(path), sha256="0" * 64)
    with pytest.raises(ConfigError, match="64 hex digits"):
        open_source(str(path), sha256="abc")
    with pytest.raises(ConfigError, match="is a folder"):
        open_source(str(folder), sha256=found)
    source = open_source(str(folder))
    nothing = source.sha256()
    source.tensors("vae/diffusion_pytorch_model.safetensors")
    source.config("model_index.json")
    assert source.config("none.json") is None
    index = hashlib.sha256((folder / "model_index.json").read_bytes()).hexdigest()
    text = f"model_index.json {index}\nvae/diffusion_pytorch_model.safetensors {found}\n"
    assert source.sha256() == hashlib.sha256(text.encode()).hexdigest() != nothing


# ---------------------------------------------------------------------------------------------------------- remote


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copies(cache: Path) -> list[int]:
    """Sizes of what is in the cache."""
    return sorted(
        p.stat().st_size for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock" and p.name != "room"
    )


def put(url: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        storage.atomic_write(f"{url}/{name}", data)


def test_a_remote_folder_copies_what_is_asked_for(cache: Path) -> None:
    data = save({"w": WEIGHT})
    put(
        "memory://bucket/model", {"unet/model.safetensors": data, "unet/config.json": b'{"a": 1}', "big.bin": bytes(99)}
    )
    source = open_source("memory://bucket/model")
    assert source.folder and list(source.names) == ["big.bin", "unet/config.json", "unet/model.safetensors"]
    assert not copies(cache)
    assert source.config("unet/config.json") == {"a": 1}
    assert source.config("vae/config.json") is None
    with pytest.raises(CheckpointError, match="more than 50 bytes"):
        source.text("big.bin", limit=50)
    assert copies(cache) == [8]
    assert torch.equal(source.tensors("unet/model.safetensors").read("w"), WEIGHT)
    assert copies(cache) == [8, len(data)]
    with pytest.raises(CheckpointError, match=r"memory://bucket/model: holds no file 'x.safetensors'"):
        source.tensors("x.safetensors")


def test_a_remote_file_is_copied_once_and_verified(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save({"w": WEIGHT})
    found = hashlib.sha256(data).hexdigest()
    url = "memory://bucket/file.safetensors"
    put("memory://bucket", {"file.safetensors": data, "file.yaml": b"a: 2\n"})
    source = open_source(url, sha256=found)
    assert not source.folder and "file.yaml" in source.names
    assert torch.equal(source.tensors().read("w"), WEIGHT) and source.config("file.yaml") == {"a": 2}
    assert source.tensors().url == url and source.sha256() == found
    reads: list[str] = []
    opened = storage.open_read

    def noted(url: str) -> Any:
        reads.append(str(url))
        return opened(url)

    monkeypatch.setattr(storage, "open_read", noted)
    assert torch.equal(open_source(url).tensors().read("w"), WEIGHT)
    assert not [each for each in reads if each.startswith("memory")]
    with pytest.raises(CheckpointError, match=f"memory://bucket/file.safetensors: has the SHA-256 {found}"):
        open_source(url, sha256="1" * 64).tensors()
    assert len(data) not in copies(cache)
    put("memory://bucket", {"empty.ckpt": b""})
    with pytest.raises(StorageError, match="is empty"):
        open_source("memory://bucket/empty.ckpt").tensors()


class Web(http.server.BaseHTTPRequestHandler):
    """Serves what it was given; a path that ends with ``broken`` is cut short."""

    disable_nagle_algorithm = True

    def __init__(self, files: dict[str, bytes], *args: Any) -> None:
        self.files = files
        super().__init__(*args)

    def do_GET(self) -> None:
        data = self.files.get(self.path.partition("?")[0])
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if "broken" in self.path else data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def web() -> Iterator[tuple[str, dict[str, bytes]]]:
    pytest.importorskip("aiohttp", reason="needs the extra s3")
    files: dict[str, bytes] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, files))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", files
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_web_address(web: tuple[str, dict[str, bytes]], cache: Path) -> None:
    address, files = web
    files.update({"/a/model.safetensors": save({"w": WEIGHT}), "/a/model.yaml": b"x: 1\n"})
    source = open_source(f"{address}/a/model.safetensors?token=secret")
    assert torch.equal(source.tensors().read("w"), WEIGHT)
    assert source.names == () and source.config("model.yaml") == {"x": 1} and source.config("none.yaml") is None
    assert "secret" not in source.url + source.tensors().url
    with pytest.raises(StorageError, match="no such file"):
        open_source(f"{address}/a/other.safetensors").tensors()


def test_a_download_that_breaks_leaves_nothing(
    web: tuple[str, dict[str, bytes]], cache: Path, settings: Callable[[Any], None]
) -> None:
    from ldm_core.storage.options import StorageSettings

    address, files = web
    files["/broken.safetensors"] = save({"w": torch.zeros(1000)})
    settings(StorageSettings(read_timeout=1.0, connect_timeout=1.0, retries=1, time_limit=2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(LDMError, match=r"broken\.safetensors"):
            open_source(f"{address}/broken.safetensors").tensors()
    assert not copies(cache)


@pytest.fixture
def settings() -> Iterator[Callable[[Any], None]]:
    yield storage.configure
    storage.configure(None)


def test_a_folder_on_s3(cache: Path) -> None:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    pytest.importorskip("moto.server", reason="needs the extra dev (moto)")
    from s3_server import s3_bucket

    with s3_bucket("weights") as url:
        put(f"{url}/model", {"unet/model.safetensors": save({"w": WEIGHT}), "unet/config.json": b'{"a": 1}'})
        source = open_source(f"{url}/model")
        assert source.folder and list(source.names) == ["unet/config.json", "unet/model.safetensors"]
        assert source.config("unet/config.json") == {"a": 1} and copies(cache) == [8]
        assert torch.equal(source.tensors("unet/model.safetensors").read("w"), WEIGHT)
        single = open_source(f"{url}/model/unet/model.safetensors")
        assert torch.equal(single.tensors().read("w"), WEIGHT) and "config.json" in single.names
        put(f"{url}/model", {"unet/model.safetensors": save({"w": -WEIGHT})})
        assert torch.equal(open_source(f"{url}/model/unet/model.safetensors").tensors().read("w"), -WEIGHT)
