"""Memory of weights: written tensor by tensor, read without a copy; measured in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from forked import Command, forked
from safetensors.torch import save, save_file

from ldm_core.contracts.codec import Written
from ldm_core.errors import CheckpointError
from ldm_core.model.fill import tensors_of, whole, write_tensors
from ldm_core.weights.write import put

TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
MIB = 1 << 20

_PROBE = """
import re, sys
import torch
from safetensors.torch import load_file
from ldm_core.contracts.codec import ModelWeights, Written
from ldm_core.model.fill import load_weights, tensors_of, write_tensors
from ldm_core.weights.write import put
def kib(key): return int(re.search(rf"{key}:\\s+(\\d+)", open("/proc/self/status").read())[1])
path, out, task = sys.argv[1:]
module = torch.nn.ParameterDict({f"p{i}": torch.zeros(1024, 1024) for i in range(24)})
before = kib("RssAnon")
if task == "load":
    tensors = tensors_of(path, warn=False)
    load_weights(module, tensors, path)
    used = kib("RssAnon") - before
else:
    tensors = tensors_of(path)
    peak = kib("VmHWM")
    write = lambda file: write_tensors(file, tensors, {})
    put(Written(files={"": None}, writers={"": write}), out)
    used = kib("VmHWM") - peak
print(used / 1024)
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 96 MiB."""
    path = tmp_path_factory.mktemp("weights") / "a.safetensors"
    save_file({f"p{i}": torch.full((1024, 1024), float(i)) for i in range(24)}, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("task", ["load", "write"])
def test_no_second_copy(stored: Path, tmp_path: Path, task: str) -> None:
    """Loading fills a module's 96 MiB and takes next to nothing beside; writing takes a tensor's 4 MiB."""
    (done,) = forked([Command(["-c", _PROBE, str(stored), str(tmp_path / "b.safetensors"), task])])
    assert done.code == 0, done.err
    used = float(done.out.split()[-1])
    assert used < (96 if task == "load" else 0) + 16, f"{used:.0f} MiB for a file of 96"
    if task == "write":
        assert set(tensors_of(str(tmp_path / "b.safetensors"))) == {f"p{i}" for i in range(24)}


def test_the_bytes_are_those_of_the_library() -> None:
    made = {f"a.{name}": torch.arange(6.0).reshape(2, 3).to(getattr(torch, name)) for name in TYPES}
    made |= {'ü"\n': torch.ones(2), "scalar": torch.tensor(2.5), "empty": torch.empty(0, 4)}
    made |= {"view": made["a.float32"].t(), "again": made["a.float32"]}
    metadata = {"ldm_core": '{"a": "ü\x01\x7f/"}\n'}
    own = whole(lambda file: write_tensors(file, made, metadata))
    assert own == save({name: tensor.clone().contiguous() for name, tensor in made.items()}, metadata=metadata)
    empty = whole(lambda file: write_tensors(file, {}, {"a": "b"}))
    assert (len(empty) % 8, empty[8:].rstrip()) == (0, b'{"__metadata__":{"a":"b"}}')


def test_writers_take_the_place_of_whole_bytes(tmp_path: Path) -> None:
    """Of a file and of a folder; a failed one leaves nothing behind."""

    def never() -> bytes:
        raise AssertionError("whole in memory")

    half = Written(files={"a.txt": lambda: b"text", "b": never}, writers={"b": lambda file: file.write(b"12345")})
    assert put(half, str(tmp_path / "folder")) == [
        (str(tmp_path / "folder" / "a.txt"), 4),
        (str(tmp_path / "folder" / "b"), 5),
    ]
    assert put(Written(files={"": never}, writers={"": lambda file: file.write(b"1")}), str(tmp_path / "one")) == [
        (str(tmp_path / "one"), 1)
    ]

    def fails(file: BinaryIO) -> None:
        file.write(b"1")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        put(Written(files={"": never}, writers={"": fails}), str(tmp_path / "none"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "one"]


def test_mapped_weights_keep_their_values_when_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.arange(4.0)}, path)
    tensors = tensors_of(str(path))
    tensors["x"] += 1  # this process's own, never the file's
    save_file({"x": torch.zeros(4)}, tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").replace(path)
    assert tensors["x"].tolist() == [1, 2, 3, 4] and tensors_of(str(path))["x"].tolist() == [0, 0, 0, 0]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        tensors_of(str(path))
