"""The header of our weights files: a safetensors file's, read without torch and never executed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, TypeAlias

import attrs

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.errors import CheckpointError, LDMError, clean, quoted

FORMAT = 1
STAGE_FILE = "first_stage.safetensors"
MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
"""The model at the step of its best evaluation."""
ADAPTER_FILE = "adapter.safetensors"
ADAPTERS = "adapters"
"""The folder of a run with a file for each adapter that it trained alone."""
DECODER_FILE = "decoder.safetensors"
DECODERS = "decoders"
"""The folder beside a model with further decoders of its latents, NAME.safetensors each."""
LATENTS_OF = "latents_of"
"""The entry of a first stage trained in its decoder alone: the hashes of the files of the stages with its latents."""
KINDS: Mapping[str, str] = {
    "model": "a model",
    "first_stage": "a first stage",
    "adapter": "an adapter",
    "decoder": "a decoder",
}
"""Contents of a file of ours, and their words."""
_KEY = "ldm_core"
PRESETS = "ldm_core_presets"
"""The entry of presets in a file's metadata; :mod:`ldm_core.weights.presets` reads and writes it. It is no part of the
file's hash."""
_OPEN = b'{"__metadata__":{'
_MARK = _OPEN + b'"' + PRESETS.encode() + b'":"'
_PRESETS = re.compile(re.escape(_MARK) + rb'(?:[^"\\]|\\.)*+",', re.DOTALL)
_BEGIN = 8 + len(_MARK)
_MAX_HEADER = 100 << 20
_MOST_AXES = 64


@attrs.frozen
class Header:
    """The metadata of a weights file: its kind, its config and versions, and the file's hash."""

    url: str
    kind: str
    use: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    extra: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    sha256: str
    presets: str = ""
    """The text of its presets, unread; "" without."""


def metadata(kind: str, use: str, config: Any, versions: Mapping[str, str], **extra: Any) -> dict[str, str]:
    """The metadata for :func:`read_header` to read back; safetensors carries strings only."""
    body = {"format": FORMAT, "kind": kind, "use": use, "config": config, "versions": dict(versions), **extra}
    return {_KEY: json.dumps(body, sort_keys=True, ensure_ascii=False)}


def adapter_name(name: str) -> str:
    """The name, in the folder of a run, of the file of the adapter `name`."""
    return f"{ADAPTERS}/{name}.safetensors"


Find: TypeAlias = "Callable[[str, str], str]"
"""(url, file name) -> a file of ours: :func:`find`, or a function with conversion of foreign weights
(:func:`ldm_core.weights.convert.finder`)."""


def find(url: str, name: str) -> str:
    """`url` itself if it is a file, or the file `name` in the folder. :class:`CheckpointError` if there is none, or
    another program wrote it."""
    if not is_native(url):
        raise CheckpointError(f"{storage.shown(url)}: was not written by ldm-core; convert it first")
    if url.endswith(".safetensors"):
        if not storage.exists(url):
            raise CheckpointError(f"{url}: no such file; give a .safetensors file or a run's folder")
        return url
    candidate = storage.join(url, name)
    if storage.exists(candidate):
        return candidate
    if not storage.exists(url):
        raise CheckpointError(f"{url}: no such file or folder; give a .safetensors file or a run's folder")
    if storage.is_folder(storage.join(url, "checkpoints")):
        raise CheckpointError(f"{url}: holds no {name} yet; training with the run's settings goes on where it stopped")
    raise CheckpointError(f"{url}: holds no {name}; give a finished run's folder or a .safetensors file")


def raw_header(url: str) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the offset behind it, with every size checked against the file."""
    size = storage.info(url).size
    if size < 8:
        raise CheckpointError(f"{url}: is no safetensors file ({size} bytes); was it cut short?")
    length = int.from_bytes(storage.read_bytes(url, 0, 8), "little")
    if length > min(size - 8, _MAX_HEADER):
        raise CheckpointError(f"{url}: is no safetensors file, or was cut short (header of {length} bytes in {size})")
    header = parse_json(storage.read_bytes(url, 8, 8 + length), f"{url}: its header", CheckpointError)
    if not isinstance(header, dict):
        raise CheckpointError(f"{url}: is no safetensors file (its header is no mapping)")
    texts = header.get("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise CheckpointError(f"{url}: is no safetensors file (its metadata is no mapping of texts)")
    try:
        end = max((_end(v) for k, v in header.items() if k != "__metadata__"), default=0)
    except (KeyError, TypeError, ValueError, IndexError):
        raise CheckpointError(f"{url}: is no safetensors file (its header lacks shapes or offsets)") from None
    if 8 + length + end > size:
        raise CheckpointError(
            f"{url}: was cut short: {size} bytes of {8 + length + end}; copy it again, or use an older checkpoint"
        )
    return header, 8 + length


def shapes(url: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a weights file's tensors by name, from its header alone; :class:`CheckpointError` if they do not
    fill the file."""
    header, begin = raw_header(url)
    tensors = {k: v for k, v in header.items() if k != "__metadata__"}
    held = sum(v["data_offsets"][1] - v["data_offsets"][0] for v in tensors.values())
    if held != storage.info(url).size - begin:
        raise CheckpointError(f"{storage.shown(url)}: is damaged (its tensors do not fill it); copy it again")
    return {k: tuple(v["shape"]) for k, v in tensors.items()}


def _end(entry: Any) -> int:
    """The end of a tensor's bytes; ValueError if its shape has more values than it has bytes."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    whole = type(shape) is list and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    if not whole or len(shape) > _MOST_AXES:
        raise ValueError("no whole numbers")
    if math.prod(shape) > max(0, end - begin):
        raise ValueError("more values than bytes")
    return int(end)


def read_header(url: str, kind: str, *, sha256: str | None = None) -> Header:
    """Read the header of a weights file of `kind` (see :data:`KINDS`), with the hash of the whole file, or the known
    one.

    Raises :class:`CheckpointError` if the file is damaged, was not written by ldm-core, or holds another kind.
    """
    header, _ = raw_header(url)
    text = (header.get("__metadata__") or {}).get(_KEY)
    if text is None:
        raise CheckpointError(f"{url}: was not written by ldm-core (no '{_KEY}' metadata), so its recipe is unknown")
    body = parse_body(text, url)
    if body["kind"] != kind:
        use = {"adapter": "add it to a model with adapters.NAME.weights=", "decoder": "decode with sample.decoder="}
        fix = f"; {use[body['kind']]}{url}" if body["kind"] in use else ""
        raise CheckpointError(f"{url}: holds {KINDS[body['kind']]}, not {KINDS[kind]}{fix}")
    return Header(
        url=url,
        kind=body["kind"],
        use=body["use"],
        config=body["config"],
        versions=body["versions"],
        extra={k: v for k, v in body.items() if k not in ("format", "kind", "use", "config", "versions")},
        tensors={k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"},
        sha256=sha256 or hash_of(url),
        presets=header["__metadata__"].get(PRESETS, ""),
    )


def read_decoder(url: str) -> Header:
    """:func:`read_header` of the file of a decoder or of a first stage."""
    text = (raw_header(url)[0].get("__metadata__") or {}).get(_KEY)
    is_stage = text is not None and parse_body(text, url)["kind"] == "first_stage"
    return read_header(url, "first_stage" if is_stage else "decoder")


def stages_of_latents(header: Header) -> list[str]:
    """The hashes of the files of all other stages with the latents of the first stage of `header`, as its file says."""
    told = header.extra.get(LATENTS_OF)
    return [str(each) for each in told] if isinstance(told, list) else []


def parse_body(text: str, url: str) -> dict[str, Any]:
    """The metadata of our own file, each value of its type; :class:`CheckpointError` else."""
    body = parse_json(text, f"{url}: its ldm-core metadata", CheckpointError)
    wrong = "is no mapping" if not isinstance(body, dict) else next(_wrong(body), "")
    if wrong:
        raise CheckpointError(f"{url}: its ldm-core metadata does not read ({wrong})")
    if body["kind"] not in KINDS:
        raise CheckpointError(f"{url}: its ldm-core metadata does not read (kind {quoted(body['kind'], 40)})")
    if body["format"] > FORMAT:
        raise CheckpointError(
            f"{url}: format {quoted(body['format'], 40)} is newer than this ldm-core reads; update ldm-core"
        )
    found: dict[str, Any] = body
    return found


def _wrong(body: Mapping[str, Any]) -> Iterator[str]:
    for key, kinds in _TYPES.items():
        if key not in body:
            if key in _NEEDED:
                yield f"{key} is missing"
        elif type(body[key]) is not kinds:
            yield f"{key} is {quoted(body[key], 40)}"
    for key, value in body["versions"].items():
        if type(value) is not str:
            yield f"the version of {quoted(key, 40)} is {quoted(value, 40)}"
    for key, names in (body.get("class_names") or {}).items():
        if type(names) is not list or not all(type(name) is str for name in names):
            yield f"class_names.{clean(key, 40)} is {quoted(names, 40)}, no list of names"
    for key, rows in (body.get("palettes") or {}).items():
        if type(rows) is not list or not all(type(row) is list for row in rows):
            yield f"palettes.{clean(key, 40)} is {quoted(rows, 40)}, no list of colours"


_NEEDED = ("kind", "use", "config", "versions", "format")
_TYPES: Mapping[str, type] = {
    "kind": str,
    "use": str,
    "config": dict,
    "versions": dict,
    "format": int,
    "identity": str,
    "first_stage_sha256": str,
    "base_sha256": str,
    "name": str,
    "class_names": dict,
    "palettes": dict,
    "image_channels": int,
    "numbers": dict,
}


def stage_header(url: str, find: Find = find) -> Header:
    """The header of a trained first stage: a file, or a run's folder."""
    return read_header(find(url, STAGE_FILE), "first_stage")


def adapter_file(url: str, name: str, find: Find = find) -> str:
    """The file of an adapter at `url`: that file, or of a run's folder the one called `name`, or the only one.

    :class:`CheckpointError` if there is none, or none of that name among several.
    """
    if url.endswith(".safetensors") or not is_native(url) or storage.exists(storage.join(url, ADAPTER_FILE)):
        return find(url, ADAPTER_FILE)
    folder = storage.join(url, ADAPTERS)
    there = [file.url for file in storage.list_files(folder)] if storage.is_folder(folder) else []
    there = [each for each in there if each.endswith(".safetensors")]
    wanted = [each for each in there if storage.base_name(each) == f"{name}.safetensors"] or there
    if len(wanted) == 1:
        return wanted[0]
    names = ", ".join(sorted(storage.base_name(each) for each in there))
    known = f"has {names} in {ADAPTERS}/" if names else f"holds no {ADAPTERS}/NAME.safetensors"
    raise CheckpointError(f"{storage.shown(url)}: {known}; give the file of the adapter that is meant")


def require_first_stage(model: Header, stage_url: str) -> str:
    """The hash of the first stage at `stage_url`; :class:`CheckpointError` if `model` was trained on another one."""
    expected, found = model.extra.get("first_stage_sha256"), sha256(stage_url)
    if expected and found != expected:
        raise CheckpointError(
            f"{stage_url} is not the first stage that {model.url} was trained on; copy the one with sha256 "
            f"{expected[:12]}... beside it"
        )
    return found


def sha256(url: str) -> str:
    """The hash of a file's content, 64 hex digits; of weights without their presets, as they were before those were
    written. A stored file with an ETag is read once a process."""
    found = storage.info(url) if storage.local_path(url) is None else None
    key = (found.url, found.size, found.mark) if found is not None and found.mark else None
    if key is None:
        return _digest(url)
    if key not in _HASHES:
        _HASHES[key] = _digest(url)
    return _HASHES[key]


hash_of = sha256
_HASHES: dict[tuple[str, int, str], str] = {}


def _digest(url: str) -> str:
    digest = hashlib.sha256()
    with storage.open_read(url) as file:
        begin = file.read(_BEGIN)
        if begin[8:].startswith(_MARK):  # the whole header, if it has a length to be read
            length = int.from_bytes(begin[:8], "little")
            begin = without_presets(begin + file.read(max(0, min(length, _MAX_HEADER) - len(begin) + 8)))
        digest.update(begin)
        _update(digest, file)
    return digest.hexdigest()


def another(url: str, wanted: str) -> str:
    """The hash of a file if it is not `wanted`, else ""; the hash of all bytes, with presets, is as good."""
    found = hash_of(url)
    if found == wanted:
        return ""
    digest = hashlib.sha256()
    with storage.open_read(url) as file:
        _update(digest, file)
    return "" if digest.hexdigest() == wanted else found


def _update(digest: hashlib._Hash, file: BinaryIO) -> None:
    """Hash the rest of a file."""
    while block := file.read(1 << 20):
        digest.update(block)


def preset_names(text: str) -> list[str]:
    """The names of the presets in a file's entry :data:`PRESETS`, as far as it reads."""
    try:
        found = parse_json(text, "its presets")["presets"]
    except (LDMError, LookupError, TypeError):
        return []
    return [clean(name, 40) for name in list(found)[:16]] if isinstance(found, Mapping) else []


def without_presets(head: bytes) -> bytes:
    """Length and header of a file as they were before presets were written; all else as it is."""
    found = _PRESETS.match(head, 8)
    if found is None or len(head) != 8 + int.from_bytes(head[:8], "little"):
        return head
    header = _OPEN + head[found.end() :]
    return len(header).to_bytes(8, "little") + header


def with_presets(head: bytes, text: str) -> bytes | None:
    """`head`, length and header of a file without presets, with the `text` of some in front of all else; spaces behind
    the text keep the tensors aligned. None for the header of another program."""
    if not head[8:].startswith(_OPEN + b'"'):
        return None
    entry = b'"%s":"%s' % (PRESETS.encode(), json.dumps(text).encode()[1:-1])
    spaces = b" " * (-(len(head) + len(entry) + 2) % 8)
    header = _OPEN + entry + spaces + b'",' + head[8 + len(_OPEN) :]
    return len(header).to_bytes(8, "little") + header


def is_weights(name: str) -> bool:
    """True if a first stage is given as a file or folder of trained weights and not as a component's name."""
    return "/" in name or "\\" in name or name.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin"))


SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""The endings of tensor files' names."""


def is_native(url: str) -> bool:
    """True if `url` is a run's folder or a file written by this package; told from names and a header, without torch.

    Missing and damaged files count as native: their reader reports the fault.
    """
    suffix = storage.base_name(url).rpartition(".")[2]
    if suffix == "safetensors":
        return _has_our_header(url)
    if f".{suffix}" in SUFFIXES:
        return False
    if not storage.exists(url) and not storage.is_folder(url):
        return True
    if not storage.is_folder(url):
        return False
    ours = [storage.join(url, name) for name in (MODEL_FILE, STAGE_FILE, ADAPTER_FILE, DECODER_FILE)]
    there = [path for path in ours if storage.exists(path)]
    if there:
        return any(map(_has_our_header, there))
    return not any(file.url.endswith(SUFFIXES) for file in storage.list_files(url, recursive=True))


def _has_our_header(url: str) -> bool:
    try:
        header, _ = raw_header(url)
    except LDMError:
        return True
    meta = header.get("__metadata__")
    return isinstance(meta, Mapping) and "ldm_core" in meta
