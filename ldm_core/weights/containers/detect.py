"""Detection of a file's container by its first bytes, never by its name. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ldm_core.contracts.codec import TensorFile
from ldm_core.errors import CheckpointError, UnsafeError
from ldm_core.storage.failures import reported
from ldm_core.storage.local import require_regular
from ldm_core.weights.containers import pickles
from ldm_core.weights.containers.safetensors_file import SafetensorsFile
from ldm_core.weights.containers.tensor_bytes import read_block
from ldm_core.weights.containers.torch_legacy import MAGIC, TorchLegacy
from ldm_core.weights.containers.torch_zip import TorchZip

_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "HDF5 (Keras)",
    b"GGUF": "GGUF",
    b"\x93NUMPY": "NumPy",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"Rar!": "RAR",
    b"7z\xbc\xaf": "7z",
    b"<!DOCTYPE": "a web page; was a login missing, or is it a folder's page? give the URL of a file",
    b"<html": "a web page; was a login missing, or is it a folder's page? give the URL of a file",
    b"version https://git-lfs": "a pointer of Git LFS; run `git lfs pull` where it came from",
}


def open_file(url: str, path: Path) -> TensorFile:
    """The tensors of the file at `path`, called `url` in messages. CheckpointError where it is none of the known
    containers, damaged, or mentions code; StorageError where there is no such file."""
    with reported("read", url):
        state = path.stat()
        require_regular(state.st_mode)
    size = state.st_size
    head = read_block(url, path, 0, min(size, 512)).tobytes()
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return SafetensorsFile(url, path, size)
    if url.split("?")[0].lower().endswith(".safetensors"):
        _refuse_pickle(url, path, size, head)
        raise CheckpointError(f"{url}: is no safetensors file, though it is called one{_named(head)}")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return TorchZip(url, path, size)
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"{url}: is a tar, torch's format of before 0.1.10, which is not read; load and save it with that torch"
        )
    if _is_legacy(head):
        return TorchLegacy(url, path, size)
    _refuse_pickle(url, path, size, head)
    raise CheckpointError(
        f"{url}: is no file of tensors{_named(head)}; safetensors and what torch.save writes are read"
    )


def _is_legacy(head: bytes) -> bool:
    """A pickle of protocol 2 or later, or torch's magic number in an older one."""
    return head[:1] == b"\x80" or head.startswith(f"L{MAGIC}L\n".encode())


def _named(head: bytes) -> str:
    return next((f" but {name}" for mark, name in _OTHERS.items() if head.startswith(mark)), "")


def _refuse_pickle(url: str, path: Path, size: int, head: bytes) -> None:
    """Name the code of a pickle in disguise; nothing happens for another file."""
    if head[:4] == b"PK\x03\x04" or _is_legacy(head):
        (TorchLegacy if _is_legacy(head) else TorchZip)(url, path, size)
        raise CheckpointError(f"{url}: is a pickled checkpoint, though it is called .safetensors; call it .ckpt")
    try:
        data = read_block(url, path, 0, min(size, pickles.LIMIT)).tobytes()
        pickles.interpret(data, 0, url, lambda saved: None)
    except UnsafeError:
        raise
    except CheckpointError:  # no pickle at all
        return
    else:
        raise CheckpointError(f"{url}: is a pickle that torch.save did not write; give .safetensors or a .ckpt")
