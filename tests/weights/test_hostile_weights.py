"""Malicious and broken weights files are refused, each by a CheckpointError, with no side effects; good ones load."""

from __future__ import annotations

import collections
import gc
import random
import sys
import time
import tracemalloc
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile_pickles
import hostile_weights as hostile
import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_core.errors import CheckpointError, LDMError, UnsafeError
from ldm_core.weights.containers import pickles
from ldm_core.weights.source import open_source

_WATCHED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "marshal.", "pty.", "webbrowser.")
_EXACT = {"import", "exec", "compile", "builtins.input", "code.__new__", "function.__new__", "tempfile.mkdtemp"}
_HARMLESS = {"os.scandir", "os.listdir"}


class Watch:
    """What Python itself reports while it is on: imports, code, processes, sockets, files opened for writing."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & 0o3):
                self.seen.append(f"open {path} {mode}")
        elif event in _EXACT or (event.startswith(_WATCHED) and event not in _HARMLESS):
            self.seen.append(f"{event} {str(args)[:80]}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def take(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file."""
    file = open_source(str(path)).tensors()
    return {name: file.read(name) for name in file.infos}


@pytest.fixture(scope="module", autouse=True)
def warmed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is imported late is imported now, so that later imports are the files' doing. Good files are taken."""
    folder = tmp_path_factory.mktemp("good")
    b"x".decode("raw-unicode-escape")
    good = {
        "a.ckpt": hostile.zipped(hostile.whole(hostile.GOOD)),
        "b.ckpt": hostile.legacy(hostile.whole(hostile.GOOD_LEGACY)),
        "c.safetensors": hostile.safetensors({"w": hostile.entry()}),
    }
    for name, data in good.items():
        (folder / name).write_bytes(data)
        assert torch.equal(take(folder / name)["w"], torch.arange(6.0).reshape(2, 3))
    gc.collect()  # loaders that other tests left end their processes now, and not while files are watched


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[hostile.Hostile]]:
    canary = tmp_path_factory.mktemp("canary") / "canary"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of names that come twice
        return canary, hostile.corpus(canary)


def test_the_corpus_is_large_enough(files: tuple[Path, list[hostile.Hostile]]) -> None:
    names = [each.name for each in files[1]]
    assert len(names) == len(set(names)), [n for n, count in collections.Counter(names).items() if count > 1]
    contents = {each.data for each in files[1] if not each.name.endswith("_called_safetensors")}
    assert len(contents) >= 400
    assert sum(each.says == "refused" or "." in each.says for each in files[1]) >= 60


def test_every_file_of_the_corpus_is_refused_without_side_effects(
    files: tuple[Path, list[hostile.Hostile]], tmp_path: Path, watch: Watch
) -> None:
    canary, corpus = files
    assert len(corpus) >= 200
    wrong: list[str] = []
    modules = set(sys.modules)
    for each in corpus:
        path = tmp_path / f"file{each.suffix}"
        path.write_bytes(each.data)
        watch.seen, watch.on = [], True
        try:
            take(path)
        except CheckpointError as error:
            said = str(error)
            if each.says not in said or "file." not in said or len(said) > 500 or not said.isprintable():
                wrong.append(f"{each.name}: says {said}")
            if each.says in ("refused", "os.system", "posix.system") and not isinstance(error, UnsafeError):
                wrong.append(f"{each.name}: {type(error).__name__}")
        except Exception as error:
            wrong.append(f"{each.name}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{each.name}: was accepted")
        finally:
            watch.on = False
        if watch.seen:
            wrong.append(f"{each.name}: did {watch.seen[:3]}")
        if path.read_bytes() != each.data:
            wrong.append(f"{each.name}: was changed")
        path.unlink()
        if canary.exists() or list(tmp_path.iterdir()) or set(sys.modules) != modules:
            wrong.append(f"{each.name}: left {[*tmp_path.iterdir(), *(set(sys.modules) - modules)]}")
    assert not wrong, "\n".join(wrong)


def test_the_watch_would_have_seen_it(tmp_path: Path, watch: Watch) -> None:
    """The same files do run when Python unpickles them: the corpus and the watch are worth something."""
    import pickle

    canary = tmp_path / "canary"
    for data in (dict(hostile_pickles.pickled(canary))[f"exec_protocol{n}"] for n in (0, 2, 4)):
        canary.unlink(missing_ok=True)
        watch.seen, watch.on = [], True
        pickle.loads(data)
        watch.on = False
        assert canary.exists()
        assert any(line.startswith("pickle.find_class") for line in watch.seen)
        assert any(line.startswith("exec") for line in watch.seen)


def bomb(body: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: hostile.zipped(hostile.whole(body()))


BOMBS: dict[str, Callable[[], bytes]] = {
    "operations": bomb(lambda: b"N0" * (pickles._MOST_OPERATIONS // 2 + 10) + b"N"),
    "dictionaries": bomb(lambda: b"]" + b"}" * 50_000 + b"0" * 50_000),
    "sets": bomb(lambda: b"]" + b"\x8f" * 50_000 + b"0" * 50_000),
    "numbers": bomb(lambda: b"]" + b"J\xff\xff\xff\x7f" * 50_000 + b"0" * 50_000),
    "memo": bomb(lambda: b"N" + b"".join(b"r%b" % n.to_bytes(4, "little") for n in range(50_000))),
    "large_pickle": bomb(lambda: b"B\0\0\0\x04" + bytes(1 << 26)),
    "large_header": lambda: hostile.safetensors(b"{" + b" " * (17 << 20) + b"}"),
    "many_lists": lambda: hostile.safetensors(b'{"w":[' + b"[]," * 100_000 + b"[]]}"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_neither_time_nor_memory(name: str, tmp_path: Path) -> None:
    data = BOMBS[name]()
    path = tmp_path / ("x.safetensors" if data[8:9] == b"{" else "x.ckpt")
    path.write_bytes(data)
    began = time.process_time()
    if len(data) > 1 << 20:  # tracing would cost more than the file
        with pytest.raises(CheckpointError):
            take(path)
    else:
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError):
                take(path)
            assert tracemalloc.get_traced_memory()[1] < 30 * len(data) + (100 << 20)
        finally:
            tracemalloc.stop()
    assert time.process_time() - began < 30


@pytest.mark.parametrize("size", [1 << 44, 1 << 62, (1 << 63) - 1])
def test_nothing_is_allocated_for_what_the_file_cannot_hold(size: int, tmp_path: Path) -> None:
    legacy = hostile.tensor(shape=(size,), stride=(1,), numel=size, legacy=True)
    path = tmp_path / "x.ckpt"
    named = b"}" + hostile_pickles.text("w")
    for data in (
        hostile.zipped(hostile.whole(named + hostile.tensor(shape=(size,), stride=(1,), numel=size) + b"s")),
        hostile.legacy(hostile.whole(named + legacy + b"s"), storages=size.to_bytes(8, "little") + b"abcd"),
        hostile.safetensors({"w": hostile.entry(dtype="U8", shape=[size], data_offsets=[0, size])}),
    ):
        path.write_bytes(data)
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            take(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20


# ------------------------------------------------------------------------------------------------------------ fuzz


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(out))
        how = rng.randrange(6)
        if how < 3:
            out[at] = rng.choice((0, 0xFF, 0x80, out[at] ^ (1 << rng.randrange(8)), rng.randrange(256)))
        elif how == 3:
            del out[at : at + rng.randrange(1, 9)]
        elif how == 4:
            out[at:at] = out[at : at + rng.randrange(1, 40)]
        else:
            out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\0"))
        if not out:
            break
    return bytes(out)


def torch_file(folder: Path, **options: Any) -> bytes:
    value = {"state_dict": collections.OrderedDict(a=torch.arange(6.0), b=torch.ones(2, 3).t()), "epoch": 3}
    torch.save(value, folder / "good", **options)
    return (folder / "good").read_bytes()


@pytest.mark.parametrize("container", ["zip", "pickle", "legacy", "safetensors"])
def test_fuzzed_files_give_an_error_or_tensors(container: str, tmp_path: Path, watch: Watch) -> None:
    """Anything but another exception, a side effect, or memory beyond the file's means."""
    rng = random.Random(container)
    good = {
        "zip": lambda: torch_file(tmp_path),
        "pickle": lambda: hostile.whole(hostile.GOOD),
        "legacy": lambda: torch_file(tmp_path, _use_new_zipfile_serialization=False),
        "safetensors": lambda: hostile.safetensors({"w": hostile.entry(), "__metadata__": {"a": "b"}}),
    }[container]()
    folder = tmp_path / "fuzzed"
    folder.mkdir()
    path = folder / ("x.safetensors" if container == "safetensors" else "x.ckpt")
    taken = 0
    tracemalloc.start()
    for _ in range(250):
        data = mutated(good, rng)
        path.write_bytes(hostile.zipped(data) if container == "pickle" else data)
        watch.seen, watch.on = [], True
        try:
            taken += bool(take(path))
        except LDMError:
            pass
        finally:
            watch.on = False
        assert not watch.seen
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20
    assert taken < 190, "most changes are noticed"
    assert list(folder.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------------ good files


@pytest.fixture
def foreign() -> Iterator[type]:
    """A class of a training library that is not there when the file is read."""
    module = types.ModuleType("pytorch_lightning_made_up")

    class ModelCheckpoint:
        def __init__(self) -> None:
            self.best_model_score = torch.tensor(0.5)

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield ModelCheckpoint
    sys.modules.pop(module.__name__, None)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8)
    return {
        **{f"of.{dtype}": (10 * torch.randn(3, 5)).to(dtype) for dtype in (*dtypes, torch.uint8, torch.complex64)},
        "bools": torch.tensor([True, False, True]),
        "weight": base,
        "weight_again": base,
        "transposed": base.t(),
        "piece": base[1:4, 2:7:2],
        "expanded": torch.arange(7).expand(1, 3, -1),
        "scalar": torch.tensor(3.25),
        "nothing": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "cond_stage_model.transformer.embeddings.position_ids": torch.arange(77).reshape(1, 77),
    }


SAVED: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda value, path: torch.save(value, path),
    "zip_protocol4": lambda value, path: torch.save(value, path, pickle_protocol=4),
    "zip_protocol5": lambda value, path: torch.save(value, path, pickle_protocol=5),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "legacy_protocol4": lambda value, path: torch.save(
        value, path, _use_new_zipfile_serialization=False, pickle_protocol=4
    ),
}


@pytest.mark.parametrize("saved", SAVED)
def test_good_checkpoints_equal_torchs(saved: str, foreign: type, tmp_path: Path, watch: Watch) -> None:
    path = tmp_path / "last.ckpt"
    ordered = collections.OrderedDict(state())
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    value = {
        "epoch": 7,
        "global_step": 123456,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": ordered,
        "callbacks": {foreign: {"best": foreign(), "score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": types.SimpleNamespace(path=tmp_path, seen={1, 2}),
    }
    SAVED[saved](value, path)
    expected = torch.load(path, weights_only=False)["state_dict"]
    del sys.modules["pytorch_lightning_made_up"]
    watch.seen, watch.on = [], True
    file = open_source(str(path)).tensors()
    got = {name: file.read(name) for name in file.infos}
    watch.on = False
    assert not watch.seen
    assert file.container == ("torch zip" if saved.startswith("zip") else "torch legacy")
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert torch.equal(got[name], tensor) and got[name].is_contiguous(), name
        assert (file.infos[name].dtype, file.infos[name].shape) == (str(tensor.dtype)[6:], tuple(tensor.shape))
        assert file.infos[name].nbytes == tensor.numel() * tensor.element_size()
    assert file.metadata == {"epoch": "7", "global_step": "123456", "pytorch-lightning_version": "1.4.2"}


def test_views_of_one_storage_take_only_their_bytes(tmp_path: Path) -> None:
    big = torch.randn(1 << 20)
    torch.save({"first": big[:10], "all": big}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    file = open_source(str(tmp_path / "a.pt")).tensors()
    tracemalloc.start()
    assert torch.equal(file.read("first"), big[:10])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert torch.equal(file.read("all"), big)


def test_safetensors_equal_their_librarys(tmp_path: Path) -> None:
    tensors = {name: value.detach().clone().contiguous() for name, value in state().items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt", "modelspec.title": "x"})
    expected = load_file(tmp_path / "a.safetensors")
    file = open_source(str(tmp_path / "a.safetensors")).tensors()
    assert set(file.infos) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(file.read(name), tensor) and file.read(name).dtype == tensor.dtype, name
    assert file.metadata == {"format": "pt", "modelspec.title": "x"}
    with pytest.raises(CheckpointError, match="holds no tensor 'other'"):
        file.read("other")


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(5)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(take(tmp_path / "a.pt")["w"], torch.arange(5))


def test_checkpoints_without_state_dict(tmp_path: Path) -> None:
    """A bare mapping, one below another name, and entries that are no tensors."""
    for name, value in {"bare": {"w": torch.ones(2)}, "below": {"model": {"w": torch.ones(2)}, "iter": 3}}.items():
        torch.save(value, tmp_path / f"{name}.pt")
        assert torch.equal(take(tmp_path / f"{name}.pt")["w"], torch.ones(2))
    torch.save({"state_dict": {"w": torch.ones(2), "extra": {1: 2}, "counts": [1]}}, tmp_path / "mixed.pt")
    file: Any = open_source(str(tmp_path / "mixed.pt")).tensors()
    assert (set(file.infos), file.ignored) == ({"w"}, {"extra": "dict", "counts": "list"})


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(hostile.safetensors({"w": hostile.entry()}))
    file = open_source(str(path)).tensors()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cut short while"):
        file.read("w")
