"""The corpus of malicious and broken weights files, generated: containers that lie, around hostile pickles."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import hostile_pickles as pickles

FLOATS = struct.pack("<6f", *range(6))
MAGIC = 0x1950A86A20F9469CFC6C


@attrs.frozen
class Hostile:
    """A file that must be refused; `says`: words of the error, where it must name what it found."""

    name: str
    data: bytes
    suffix: str = ".ckpt"
    says: str = ""


def number(value: int) -> bytes:
    """A whole number of any size as a pickle has it."""
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def numbers(values: Sequence[int]) -> bytes:
    """A tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(  # noqa: PLR0913
    shape: Sequence[int] = (2, 3),
    stride: Sequence[int] = (3, 1),
    offset: int = 0,
    numel: int = 6,
    key: str | int = "0",
    kind: str = "torch.FloatStorage",
    of: str = "",
    legacy: bool = False,
) -> bytes:
    """The opcodes that push a tensor."""
    if of == "big":
        shape, stride, numel, key = (1 << 18,), (1,), 1 << 18, "1"
    named_key = pickles.text(key) if isinstance(key, str) else number(key)
    view = b"N" if legacy else b""
    storage = pickles.text("storage") + pickles.named(kind) + named_key + pickles.text("cpu") + number(numel) + view
    return (
        pickles.named("torch._utils._rebuild_tensor_v2")
        + b"(("
        + storage
        + b"tQ"
        + number(offset)
        + numbers(shape)
        + numbers(stride)
        + b"\x89"
        + pickles.named("collections.OrderedDict")
        + b")RtR"
    )


GOOD = b"}" + pickles.text("w") + tensor() + b"s"
GOOD_LEGACY = b"}" + pickles.text("w") + tensor(legacy=True) + b"s"


def whole(body: bytes, protocol: int = 2) -> bytes:
    """A pickle of `body`."""
    return b"\x80" + bytes([protocol]) + body + b"."


def zipped(pickled: bytes, *more: tuple[str, bytes], prefix: str = "archive/", **changed: bytes) -> bytes:
    """A checkpoint as torch writes it since 1.6, with other members behind it."""
    members = {"data.pkl": pickled, "byteorder": b"little", "data/0": FLOATS, "version": b"3\n", **changed}
    return archived(*((prefix + name, data) for name, data in members.items()), *more)


def archived(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(archive_name(name), data, method)
    return buffer.getvalue()


def archive_name(name: str) -> zipfile.ZipInfo:
    """A member's entry under exactly this name; zipfile would mend it."""
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    return info


def legacy(main: bytes, keys: bytes | None = None, storages: bytes | None = None, **heads: bytes) -> bytes:
    """A checkpoint as torch wrote it before 1.6."""
    machine = b"}" + pickles.text("little_endian") + b"\x88s"
    return (
        heads.get("magic", whole(number(MAGIC)))
        + heads.get("version", whole(number(1001)))
        + heads.get("machine", whole(machine))
        + main
        + (whole(b"](" + pickles.text("0") + b"e") if keys is None else keys)
        + (struct.pack("<q", 6) + FLOATS if storages is None else storages)
    )


def safetensors(header: Any, data: bytes = FLOATS, *, length: int | None = None) -> bytes:
    """A safetensors file with any header, given as JSON text or as values."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changed: Any) -> dict[str, Any]:
    """A header's entry of the six numbers, changed."""
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changed}


def malicious(canary: Path) -> Iterator[Hostile]:
    """Files that would run a command if they were unpickled; each must be refused, and name what would have run."""
    command = f"touch {canary}"
    for way in pickles.WAYS:
        says = way.rpartition(".")[2]
        yield Hostile(f"zip_{way}", zipped(whole(pickles.reduced(way, command))), says=says)
        yield Hostile(f"legacy_{way}", legacy(whole(pickles.reduced(way, command))), says=says)
    for name, call in pickles.spoken("posix.system", command):
        yield Hostile(f"zip_by_{name}", zipped(whole(call, 4)), says="posix.system")
        yield Hostile(f"plain_by_{name}", whole(call, 4), ".bin", says="posix.system")
    for way in ("os.system", "builtins.exec"):
        call = pickles.reduced(way, command)
        for name, body in pickles.hidden(call, tensor()):
            yield Hostile(f"zip_{name}_{way}", zipped(whole(body)), says=way)
        for name, body in pickles.hidden(call, tensor(legacy=True)):
            yield Hostile(f"legacy_{name}_{way}", legacy(whole(body)), says=way)
    system = pickles.reduced("os.system", command)
    for head in ("magic", "version", "machine"):
        yield Hostile(f"legacy_{head}", legacy(whole(GOOD_LEGACY), **{head: whole(system)}), says="os.system")
    yield Hostile("legacy_keys", legacy(whole(GOOD_LEGACY), keys=whole(system)), says="os.system")
    for name, data in pickles.pickled(canary):
        for suffix in (".pt", ".safetensors"):
            yield Hostile(f"pickled_{name}{suffix}", data, suffix, says="refused")
        yield Hostile(f"zip_pickled_{name}", zipped(data), says="refused")
    yield Hostile("zip_called_safetensors", zipped(whole(system)), ".safetensors", says="os.system")
    yield Hostile("legacy_called_safetensors", legacy(whole(system)), ".safetensors", says="os.system")
    for path in (
        "../data.pkl",
        "/data.pkl",
        "archive/../../data.pkl",
        "C:/data.pkl",
        "archive\\data.pkl",
        "./data.pkl",
    ):
        yield Hostile(f"path_{path}", zipped(whole(GOOD), (path, whole(system))), says="refused")
        yield Hostile(f"only_path_{path}", archived((path, whole(system))), says="refused")
    yield Hostile("second_pickle", zipped(whole(GOOD), ("other/data.pkl", whole(system))))
    yield Hostile("nested_pickle", zipped(whole(GOOD), ("archive/code/data.pkl", whole(system))))
    yield Hostile("same_name_twice", zipped(whole(GOOD), ("archive/data.pkl", whole(system))), says="twice")
    yield Hostile("same_name_in_capitals", zipped(whole(GOOD), ("archive/DATA.PKL", whole(system))), says="twice")
    yield Hostile("torchscript", zipped(whole(GOOD), ("archive/constants.pkl", whole(b")"))), says="TorchScript")


def broken_zips() -> Iterator[Hostile]:
    """Zips that lie, and pickles in good zips that make no sense."""
    big: dict[str, Any] = {"data/1": bytes(1 << 20)}
    for name, body in pickles.senseless(tensor):
        yield Hostile(f"senseless_{name}", zipped(whole(body, 4), **(big if name == "aliases" else {})))
    good = zipped(whole(GOOD))
    for part in range(1, 24):
        yield Hostile(f"zip_cut_{part}", good[: len(good) * part // 24])
    yield Hostile("zip_in_front", b"GIF89a" + good)
    yield Hostile("zip_behind", good + b"\0")
    yield Hostile("zip_comment", good[:-2] + b"\x05\0hello", says="behind")
    yield Hostile("empty_zip", archived())
    yield Hostile("no_pickle", archived(("a.npy", b"\x93NUMPY")))
    yield Hostile("compressed", deflated(whole(GOOD)), says="compressed")
    yield Hostile("bomb", deflated(whole(GOOD), bytes(64 << 20)), says="compressed")
    yield Hostile("big_endian", zipped(whole(GOOD), byteorder=b"big"), says="machine")
    yield Hostile("long_byteorder", zipped(whole(GOOD), byteorder=b"little" * 100))
    short: dict[str, Any] = {"data/0": FLOATS[:20]}
    yield Hostile("short_storage", zipped(whole(GOOD), **short))
    yield Hostile("link", zipped(whole(GOOD)).replace(*linked(good)), says="link")
    rng = random.Random(1)
    spans = [(good.index(whole(GOOD)), len(whole(GOOD))), (good.index(FLOATS), len(FLOATS))]
    for start, length in spans * 8:
        yield Hostile(f"flip_{rng.random():.6f}", flipped(good, rng.randrange(start, start + length)), says="checksum")
    at = good.index(b"PK\x01\x02")
    for field, value in ((20, 1 << 30), (24, 1 << 30), (42, 1 << 20), (28, 60_000), (10, 8), (8, 1), (34, 3)):
        width = 2 if field in (28, 10, 8, 34) else 4
        data = good[: at + field] + value.to_bytes(width, "little") + good[at + field + width :]
        yield Hostile(f"directory_{field}", data)
    end = len(good) - 22
    for field, value in ((8, 9), (10, 9), (12, 0xFFFF), (16, 0xFFFF), (4, 1)):
        width = 4 if field in (12, 16) else 2
        data = good[: end + field] + value.to_bytes(width, "little") + good[end + field + width :]
        yield Hostile(f"end_{field}", data)
    yield Hostile("local_name", good.replace(b"archive/data.pkl", b"archive/data.pkx", 1))
    second = good.index(b"PK\x01\x02", at + 4)
    yield Hostile("overlap", good[: second + 42] + (5).to_bytes(4, "little") + good[second + 46 :])


def deflated(pickled: bytes, storage: bytes = FLOATS) -> bytes:
    """The checkpoint, compressed."""
    return archived(("archive/data.pkl", pickled), ("archive/data/0", storage), method=zipfile.ZIP_DEFLATED)


def linked(good: bytes) -> tuple[bytes, bytes]:
    """The first directory entry, and the same as a symbolic link."""
    at = good.index(b"PK\x01\x02")
    old = good[at : at + 46]
    return old, old[:5] + b"\x03" + old[6:38] + (0o120777 << 16).to_bytes(4, "little") + old[42:]


def flipped(data: bytes, at: int) -> bytes:
    """`data` with one bit of a byte turned."""
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def broken_legacy() -> Iterator[Hostile]:
    """Files of the old format whose parts do not fit."""
    main = whole(GOOD_LEGACY)
    good = legacy(main)
    for part in range(1, 24):
        yield Hostile(f"legacy_cut_{part}", good[: len(good) * part // 24], ".pt")
    for count in (5, 7, -6, 1 << 62):
        yield Hostile(f"legacy_count_{count}", legacy(main, storages=struct.pack("<q", count) + FLOATS))
    yield Hostile("legacy_behind", good + b"\0")
    yield Hostile("legacy_zip_behind", good + zipped(whole(GOOD)))
    yield Hostile("legacy_other_key", legacy(main, keys=whole(b"](" + pickles.text("7") + b"e")))
    yield Hostile("legacy_two_keys", legacy(main, keys=whole(b"](" + pickles.text("0") * 2 + b"e")))
    yield Hostile("legacy_no_keys", legacy(main, keys=whole(b"N")))
    yield Hostile("legacy_other_version", legacy(main, version=whole(number(1002))))
    big = whole(b"}" + pickles.text("little_endian") + b"\x89s")
    yield Hostile("legacy_big_endian", legacy(main, machine=big), says="machine")
    two = b"}(" + pickles.text("a") + tensor(legacy=True) + pickles.text("b")
    wide = tensor(legacy=True, kind="torch.IntStorage") + b"u"
    yield Hostile("legacy_two_types", legacy(whole(two + wide)), says="twice")
    view = b"K\x05K\x04\x87"
    viewed = tensor(legacy=True).replace(number(6) + b"N", number(6) + pickles.text("v") + view, 1)
    yield Hostile("legacy_view", legacy(whole(b"}" + pickles.text("w") + viewed + b"s")), says="view")
    yield Hostile(
        "legacy_enormous", legacy(whole(b"}" + pickles.text("w") + tensor(legacy=True, numel=1 << 50) + b"s"))
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    yield Hostile("tar", buffer.getvalue(), says="tar")


def broken_safetensors() -> Iterator[Hostile]:
    """Headers that lie."""
    good = {"w": entry()}
    cases: dict[str, Any] = {
        "dtype": {"w": entry(dtype="F33")},
        "dtype_number": {"w": entry(dtype=3)},
        "narrow": {"w": entry(dtype="F64")},
        "negative_shape": {"w": entry(shape=[-2, -3])},
        "float_shape": {"w": entry(shape=[2.0, 3])},
        "true_shape": {"w": entry(shape=[True, 6])},
        "text_shape": {"w": entry(shape="23")},
        "overflowing_shape": {"w": entry(shape=[1 << 32, 1 << 32])},
        "enormous_shape": {"w": entry(shape=[1 << 80])},
        "axes": {"w": entry(shape=[1] * 65, data_offsets=[0, 4])},
        "reversed": {"w": entry(data_offsets=[24, 0])},
        "negative": {"w": entry(data_offsets=[-24, 0])},
        "beyond": {"w": entry(shape=[4, 3], data_offsets=[0, 48])},
        "three": {"w": entry(data_offsets=[0, 24, 24])},
        "gap": {"w": entry(shape=[5], data_offsets=[4, 24])},
        "less": {"w": entry(shape=[5], data_offsets=[0, 20])},
        "overlap": {"w": entry(), "v": entry(shape=[4], data_offsets=[8, 24])},
        "same": {"w": entry(), "v": entry()},
        "missing": {"w": {"dtype": "F32", "shape": [2, 3]}},
        "more": {"w": entry(code="os.system")},
        "entry": {"w": [1]},
        "none": {"w": None},
        "no_name": {"": entry()},
        "control": {"w\x1b[2J": entry()},
        "metadata": {"__metadata__": {"a": 1}, "w": entry()},
        "metadata_list": {"__metadata__": ["a"], "w": entry()},
        "list": [1],
        "empty": {},
    }
    for name, header in cases.items():
        yield Hostile(f"safetensors_{name}", safetensors(header), ".safetensors")
    texts = {
        "nan": b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,24]}}',
        "infinity": b'{"__metadata__":{"a":Infinity}}',
        "twice": b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2),
        "nested": b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "open": b'{"w":',
        "bytes": b'{"\xff\xfe":1}',
        "pickle": b"{}" + whole(b"cos\nsystem\n)R"),
        "comment": b"{} // hello",
    }
    for name, text in texts.items():
        yield Hostile(f"safetensors_{name}", safetensors(text), ".safetensors")
    text = json.dumps(good).encode()
    for length in (0, 1, len(text) - 1, len(text) + 1, len(text) + 24, len(text) + 25, 1 << 33, 1 << 62, (1 << 64) - 1):
        yield Hostile(f"safetensors_length_{length}", safetensors(good, length=length), ".safetensors")
    data = safetensors(good)
    for part in range(1, 24):
        yield Hostile(f"safetensors_cut_{part}", data[: len(data) * part // 24], ".safetensors")
    yield Hostile("safetensors_zip_behind", data + zipped(whole(GOOD)), ".safetensors")
    yield Hostile("safetensors_zip_behind_ckpt", data + zipped(whole(GOOD)), ".ckpt")
    yield Hostile("safetensors_pickle_inside", safetensors(b"{" + whole(GOOD)), ".safetensors")


def other_files() -> Iterator[Hostile]:
    """What people take for weights."""
    others = {
        "nothing": b"",
        "byte": b"\x80",
        "page": b"<!DOCTYPE html><html>Please log in</html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265380512\n",
        "keras": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "gguf": b"GGUF" + bytes(100),
        "gzip": gzip.compress(zipped(whole(GOOD)), mtime=0),
        "zlib": zlib.compress(bytes(1 << 20)),
        "zeros": bytes(4096),
        "noise": random.Random(2).randbytes(4096),
        "text": b"hello\n" * 100,
    }
    for name, data in others.items():
        yield Hostile(name, data)
        yield Hostile(f"{name}_called_safetensors", data, ".safetensors")


def corpus(canary: Path) -> list[Hostile]:
    """Every file that must be refused."""
    return [*malicious(canary), *broken_zips(), *broken_legacy(), *broken_safetensors(), *other_files()]
