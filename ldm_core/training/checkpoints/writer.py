"""Writes checkpoints, in a thread while training goes on: to a fresh folder, hashed as they go, the manifest last."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import attrs
from torch import Tensor

from ldm_core import storage
from ldm_core.errors import LDMError, StorageError
from ldm_core.training.checkpoints.files import FORMAT, MANIFEST, discard

SHARD = 1 << 30
"""Bytes of one file: sent again when a connection breaks, and held in memory by a remote read."""

_DTYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.bool": "BOOL", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
}  # fmt: skip


@attrs.frozen
class Outcome:
    """The outcome of a write: the checkpoint's step and folder, the seconds it took, and why it failed, if it did."""

    step: int
    url: str
    seconds: float
    error: Exception | None


class Writer:
    """Writes one checkpoint after the other into `folder`, and removes the superfluous ones.

    The newest `keep` stay, and those at multiples of `keep_every`. `known` names the whole ones in the folder (newest
    first), `damaged` those to remove as soon as a new one stands. Only the first process has a writer.
    """

    def __init__(
        self,
        folder: str,
        *,
        keep: int,
        keep_every: int,
        background: bool,
        known: Sequence[str] = (),
        damaged: Sequence[str] = (),
        shard: int = SHARD,
    ) -> None:
        self._folder, self._keep, self._every, self._background = folder, keep, keep_every, background
        self._standing = list(reversed(known))  # oldest first
        self._damaged = list(damaged)
        self._shard = shard
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        self._crash: BaseException | None = None

    @property
    def busy(self) -> bool:
        """True while a write is under way; its tensors must not change until its end."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, step: int, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
        """Write ``step-<step>-<random word>``; returns at once, or after the write without `background`."""
        self.wait()
        if self._background:
            self._thread = threading.Thread(
                target=self._run, args=(step, tensors, manifest), name="ldm-checkpoint", daemon=True
            )
            self._thread.start()
        else:
            self._run(step, tensors, manifest)

    def wait(self, seconds: float | None = None) -> None:
        """Return when no write is under way, or after `seconds`."""
        if self._thread is not None:
            self._thread.join(seconds)
            if not self._thread.is_alive():
                self._thread = None

    def outcome(self) -> Outcome | None:
        """The outcome of the last finished write; told once. A mistake in the writing itself is raised."""
        if self.busy:
            return None
        if self._crash is not None:
            crash, self._crash = self._crash, None
            raise crash
        outcome, self._outcome = self._outcome, None
        return outcome

    def _run(self, step: int, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
        begun = time.monotonic()
        name = f"step-{step:08d}-{secrets.token_hex(4)}"
        url = storage.join(self._folder, name)
        error: Exception | None = None
        try:
            self._write(url, step, tensors, manifest)
            self._standing.append(name)
            self._prune()
        except (LDMError, OSError) as caught:
            error = caught
            if name not in self._standing:
                _try_remove(url)  # half of one: no reader takes it, but it holds space
        except BaseException as caught:
            self._crash = caught
        self._outcome = Outcome(step, url, time.monotonic() - begun, error)

    def _write(self, url: str, step: int, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
        storage.make_folder(url)
        files = {}
        for number, shard in enumerate(_shards(tensors, self._shard)):
            file = f"state-{number:05d}.safetensors"
            sent = _Hashed(shard)
            storage.atomic_write(storage.join(url, file), sent)
            files[file] = {"bytes": sent.size, "sha256": sent.digest}
        whole = {"format": FORMAT, "step": step, **manifest, "files": files}
        storage.atomic_write(storage.join(url, MANIFEST), json.dumps(whole, indent=1))

    def _prune(self) -> None:
        """Drop the superfluous ones; a failure is none of the checkpoint, the next one tries again."""
        for name in [n for n in self._standing[: -self._keep] if not self._stays(n)]:
            if _try_remove(storage.join(self._folder, name)):
                self._standing.remove(name)
        self._damaged = [n for n in self._damaged if not _try_remove(storage.join(self._folder, n))]

    def _stays(self, name: str) -> bool:
        return bool(self._every) and int(name.split("-")[1]) % self._every == 0


def _try_remove(url: str) -> bool:
    """Remove a checkpoint; True on success."""
    try:
        discard(url)
    except StorageError:
        return False
    return True


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Tensors in files of at most `limit` bytes each (one tensor is never cut); at least one file."""
    out: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if out[-1] and size + tensor.nbytes > limit:
            out.append({})
            size = 0
        out[-1][name] = tensor
        size += tensor.nbytes
    return out


class _Hashed:
    """A function to fill a file with tensors in the safetensors layout, with the hash of the written bytes.

    Tensors go out one by one from their place: there is no second copy of them in memory.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.size, self.digest = 0, ""

    def __call__(self, file: BinaryIO) -> None:
        digest, self.size = hashlib.sha256(), 0
        for piece in _layout(self._tensors):
            digest.update(piece)
            file.write(piece)
            self.size += len(piece)
        self.digest = digest.hexdigest()


def _layout(tensors: Mapping[str, Tensor]) -> Sequence[Any]:
    """The bytes of a safetensors file as views: its header, then the tensors, the widest types first: each lies at a
    multiple of its width."""
    import torch

    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header: dict[str, Any] = {}
    start = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": _DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    views: list[Any] = [t.contiguous().view(-1).view(torch.uint8).numpy() for _, t in ordered if t.numel()]
    return [len(text).to_bytes(8, "little") + text, *(memoryview(v) for v in views)]
