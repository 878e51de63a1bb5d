"""The latent cache: what it holds, that it is made once and checked, and that damage is named and repaired."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import training_runs
from forked import Command, forked
from one_thread import one_thread
from PIL import Image
from ranks import on_ranks
from safetensors.torch import load_file
from torch import Tensor
from training_runs import TINY, VQ, Watch, go, weights

from ldm_core.catalog import Catalog
from ldm_core.data.collate import to_images
from ldm_core.errors import CheckpointError, ConfigError, DataError, Interrupted
from ldm_core.model.trained import load_stage
from ldm_core.recipe import artifacts
from ldm_core.training import workflow
from ldm_core.training.feed.examples import Examples
from ldm_core.training.latents.cache import Cache, folder_of, source_of
from ldm_core.training.latents.command import encode
from ldm_core.training.latents.shards import MANIFEST

MODEL = ("first_stage", "latents", "denoiser")
FIRST = ("first_stage",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a VQ first stage; 70 scenes, so three shards of 32, 32 and 6."""
    out = tmp_path_factory.mktemp("trained")
    go(out, "first_stage_trainer.steps=2", stages=FIRST, first_stage=VQ)
    return out


def _recipe(trained: Path, out: Path | str, *overrides: str, **changes: Any) -> tuple[Any, Any, Catalog]:
    from ldm_core.config import overrides as overrides_

    catalog = Catalog.discover()
    plain: dict[str, Any] = {
        **TINY,
        "first_stage": str(trained),
        "dataset": {"use": "shapes", "scenes": 70, "val_scenes": 8},
        "trainer": {**TINY["trainer"], "latents": str(out)},
        **changes,
    }
    overrides_.apply_overrides(plain, overrides, [])
    recipe, info = workflow.prepare(plain, catalog)
    return recipe, info, catalog


def _made(trained: Path, out: Path | str, *overrides: str, **changes: Any) -> tuple[dict[str, Any], Cache, Any, Any]:
    """(what encode says, the cache, its recipe, the data)."""
    from ldm_core.model.parts import make_dataset

    recipe, info, catalog = _recipe(trained, out, *overrides, **changes)
    said = encode(recipe, info, catalog)
    data = make_dataset(recipe, catalog).select(["image", *recipe.reads])
    source = source_of(recipe, recipe.first_stage.sha256, data.fingerprint())
    assert said["folder"] == folder_of(recipe, "", source.key)
    cache = Cache.find(said["folder"], source, recipe.data.keep)
    assert cache is not None
    return said, cache, recipe, data


@pytest.mark.parametrize("keep", [1 << 30, 0], ids=["in memory", "read one by one"])
def test_moments_are_those_of_the_first_stage_mirrored_too(trained: Path, tmp_path: Path, keep: int) -> None:
    said, cache, recipe, data = _made(trained, tmp_path, "data.flip=true", f"data.keep={keep}")
    assert (said["count"], said["flips"], said["shards"], said["made"]) == (70, 2, 3, 3)
    stage = load_stage(recipe, Catalog.discover(), str(trained / artifacts.STAGE_FILE), torch.device("cpu"))
    examples = Examples(data, recipe.image_size, recipe.data, ["image"])
    for index in (0, 31, 32, 69):
        for flip in (False, True):
            image = to_images(examples.fitted(examples.dataset[index], flip)["image"][None])
            torch.testing.assert_close(cache.moments(index, flip), stage.encode_moments(image)[0], atol=1e-5, rtol=1e-5)
        assert cache.source(index) == index
    assert not torch.equal(cache.moments(3), cache.moments(3, True))
    with pytest.raises(IndexError):
        cache.moments(70)


def test_reading_one_by_one_gives_the_same_bits(trained: Path, tmp_path: Path) -> None:
    _, whole, recipe, _ = _made(trained, tmp_path)
    source = attrs.evolve(source_of(recipe, recipe.first_stage.sha256, ""), data="")
    folder = next(tmp_path.iterdir())
    manifest = json.loads((folder / MANIFEST).read_text())
    lazy = Cache(str(folder), manifest, keep=0)
    assert not lazy._moments and whole._moments and source.key != manifest["key"]
    assert all(torch.equal(lazy.moments(i), whole.moments(i)) for i in range(70))


def test_the_manifest_tells_the_moments_statistics(trained: Path, tmp_path: Path) -> None:
    said, cache, _, _ = _made(trained, tmp_path)
    every = torch.stack([cache.moments(i) for i in range(70)]).double()
    by_channel = every.transpose(0, 1).flatten(1)
    manifest = json.loads((Path(said["folder"]) / MANIFEST).read_text())
    assert manifest["statistics"] == said["statistics"]
    np.testing.assert_allclose(said["statistics"]["mean"], by_channel.mean(1), rtol=1e-6)
    np.testing.assert_allclose(said["statistics"]["std"], by_channel.std(1, correction=0), rtol=1e-6)
    assert said["statistics"]["max"] == pytest.approx(by_channel.amax(1).tolist())
    assert said["statistics"]["rounding"] == 0.0
    assert [s["count"] for s in manifest["shards"]] == [32, 32, 6]
    assert manifest["bytes"] == sum((Path(said["folder"]) / s["file"]).stat().st_size for s in manifest["shards"])


@pytest.mark.parametrize(("dtype", "share"), [("fp16", 3e-4), ("bf16", 3e-3)])
def test_half_the_bytes_lose_the_rounding_that_is_told(trained: Path, tmp_path: Path, dtype: str, share: float) -> None:
    _, exact, *_ = _made(trained, tmp_path / "a")
    said, rounded, *_ = _made(trained, tmp_path / "b", f"trainer.latents_dtype={dtype}", "data.keep=0")
    a, b = (torch.stack([c.moments(i) for i in range(70)]).double() for c in (exact, rounded))
    measured = float((a - b).square().sum().sqrt() / b.square().sum().sqrt())
    assert said["statistics"]["rounding"] == pytest.approx(measured, rel=1e-6)
    assert share / 20 < measured < share
    assert rounded.moments(0).dtype == torch.float32


def test_a_second_call_makes_nothing_and_another_source_another_folder(trained: Path, tmp_path: Path) -> None:
    first, *_ = _made(trained, tmp_path)
    again, *_ = _made(trained, tmp_path)
    assert (first["made"], again["made"]) == (3, 0) and first["folder"] == again["folder"]
    keys = {first["key"]}
    for override in ("data.flip=true", "data.fit=pad", "trainer.latents_dtype=fp16", "dataset.scenes=69"):
        other, *_ = _made(trained, tmp_path, override)
        assert other["made"]
        keys.add(other["key"])
    assert len(keys) == 5 == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_shard_is_named_and_encoded_again_alone(trained: Path, tmp_path: Path, damage: str) -> None:
    said, *_ = _made(trained, tmp_path)
    folder = Path(said["folder"])
    good = {p.name: p.read_bytes() for p in folder.iterdir()}
    shard = folder / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    if damage == "flipped":
        data[-100] ^= 1
        shard.write_bytes(data)
    elif damage == "cut":
        shard.write_bytes(data[:-8])
    else:
        shard.unlink()
    recipe, info, catalog = _recipe(trained, tmp_path)
    catalog.manager.register(watch := Watch())
    assert encode(recipe, info, catalog)["made"] == 1
    assert len(watch.messages) == 1 and "shard-00001.safetensors" in watch.messages[0]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == good


def test_damage_that_comes_later_is_found_when_it_is_read(trained: Path, tmp_path: Path) -> None:
    said, cache, *_ = _made(trained, tmp_path, "data.keep=0")
    shard = Path(said["folder"]) / "shard-00000.safetensors"
    at = json.loads((Path(said["folder"]) / MANIFEST).read_text())["shards"][0]["at"]["moments"]
    data = bytearray(shard.read_bytes())
    data[at + 5] ^= 1  # of example 0
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"shard-00000.safetensors is damaged at example 0; delete it"):
        cache.moments(0)
    cache.moments(1)


@pytest.mark.parametrize("text", ['{"key": "', "[]", '{"key": "1", "shards": [], "count": 0}'])
def test_a_manifest_that_does_not_fit_is_made_anew_from_its_shards(trained: Path, tmp_path: Path, text: str) -> None:
    said, *_ = _made(trained, tmp_path)
    manifest = Path(said["folder"]) / MANIFEST
    before = manifest.read_text()
    manifest.write_text(text)
    recipe, info, catalog = _recipe(trained, tmp_path)
    catalog.manager.register(watch := Watch())
    assert encode(recipe, info, catalog)["made"] == 0
    assert "manifest.json" in watch.messages[0]
    assert manifest.read_text() == before


def test_a_shard_of_something_else_is_not_used(trained: Path, tmp_path: Path) -> None:
    said, *_ = _made(trained, tmp_path)
    other, *_ = _made(trained, tmp_path, "data.fit=pad")  # equal moments: the scenes have the size already
    (Path(said["folder"]) / MANIFEST).unlink()
    name = "shard-00002.safetensors"
    (Path(said["folder"]) / name).write_bytes((Path(other["folder"]) / name).read_bytes())
    recipe, info, catalog = _recipe(trained, tmp_path)
    catalog.manager.register(watch := Watch())
    assert encode(recipe, info, catalog)["made"] == 1
    assert watch.messages == [
        f"latents: {Path(said['folder']) / name} was made from something else; it is encoded again"
    ]


def test_a_stopped_encoding_goes_on_from_its_finished_shards(trained: Path, tmp_path: Path) -> None:
    want, *_ = _made(trained, tmp_path / "whole")
    recipe, info, catalog = _recipe(trained, tmp_path / "part")
    catalog.manager.register(Watch(stop=("latents", 2)))
    with pytest.raises(Interrupted, match="the same command goes on from the shards"):
        encode(recipe, info, catalog)
    (folder,) = (tmp_path / "part").iterdir()
    kept = sorted(p.name for p in folder.iterdir())
    assert kept == ["shard-00000.safetensors", "shard-00001.safetensors"]
    said, *_ = _made(trained, tmp_path / "part")
    assert said["made"] == 1
    assert _files(folder) == _files(Path(want["folder"]))


def _files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def test_a_killed_encoding_leaves_nothing_that_is_taken_for_whole(trained: Path, tmp_path: Path) -> None:
    """Killed in the middle of a shard's write, and again: what is finished in the end is what one go makes."""
    want, *_ = _made(trained, tmp_path / "whole")
    out = tmp_path / "killed"
    script = tmp_path / "main.py"
    support = Path(training_runs.__file__).parent
    script.write_text(
        "import json, os, signal, sys\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), str(support), str(support / 'processes')]!r}\n"
        "from pathlib import Path\n"
        "from test_latent_cache import _files, _recipe\n"
        "from ldm_core.training.latents.command import encode\n"
        f"out, replace, left = Path({str(out)!r}), os.replace, [0]\n"
        "def killed(*args):\n"
        "    left[0] -= 1\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if left[0] < 0 else replace(*args)\n"
        "for left[0] in range(3):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.replace = killed\n"
        f"        encode(*_recipe(Path({str(trained)!r}), str(out)))\n"
        "        os._exit(0)\n"
        "    status = os.waitpid(child, 0)[1]\n"
        "    print(json.dumps([os.waitstatus_to_exitcode(status), [sorted(_files(f)) for f in out.iterdir()]]))\n"
    )
    (done,) = forked([Command([str(script)])])
    assert done.code == 0, done.err[-2000:]
    attempts = [json.loads(line) for line in done.out.splitlines() if line.startswith("[")]
    for (code, folders), whole in zip(attempts, (0, 1, 3), strict=True):  # at the first write, the second, the manifest
        assert code == -signal.SIGKILL, done.err[-2000:]
        (names,) = folders
        assert len([n for n in names if n.startswith("shard")]) == whole
        assert MANIFEST not in names
    said, *_ = _made(trained, out)
    assert said["made"] == 0
    assert _files(Path(said["folder"])) == _files(Path(want["folder"]))


def test_two_processes_make_the_same_files(trained: Path, tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "from pathlib import Path\n"
        "from test_latent_cache import _recipe\n"
        "from ldm_core.training.latents.command import encode\n"
        f"encode(*_recipe(Path({str(trained)!r}), {str(tmp_path / 'two')!r}))\n"
    )
    on_ranks(script, paths=[str(Path(__file__).parent)])
    with one_thread():
        _made(trained, tmp_path / "one")
    one, two = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert one.name == two.name
    assert _files(one) == _files(two) and len(_files(one)) == 4


def test_a_run_uses_shared_latents_and_trains_the_same_from_memory_disk_and_workers(
    trained: Path, tmp_path: Path
) -> None:
    data = {"use": "shapes", "scenes": 70, "val_scenes": 8}
    changes: dict[str, Any] = {"first_stage": str(trained), "dataset": data, "stages": MODEL}
    shared = f"trainer.latents={tmp_path / 'shared'}"
    said, *_ = _made(trained, tmp_path / "shared", "data.flip=true")
    first = go(tmp_path / "a", shared, "data.flip=true", **changes)
    assert ("latents", "skipped") in first.ends and not (tmp_path / "a" / "latents").exists()
    go(tmp_path / "b", "data.flip=true", "data.keep=0", **changes)
    go(tmp_path / "c", shared, "data.flip=true", "data.keep=0", "data.workers=2", **changes)
    (own,) = (tmp_path / "b" / "latents").iterdir()
    assert _files(own) == _files(Path(said["folder"]))
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert _equal(a, b) and _equal(a, c)
    go(tmp_path / "d", "data.flip=true", "trainer.cache_latents=false", **changes)
    assert max(float((a[k] - v).abs().max()) for k, v in weights(tmp_path / "d").items()) < 1e-4


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_random_crops_are_encoded_at_each_step_and_that_is_said(trained: Path, tmp_path: Path) -> None:
    watch = go(tmp_path, "data.crop=random", first_stage=str(trained), stages=MODEL)
    assert any("data.crop=random" in m and "encoded at each step" in m for m in watch.messages)
    assert not (tmp_path / "latents").exists() and (tmp_path / "model.safetensors").exists()
    with pytest.raises(ConfigError, match=r"data\.crop=random"):
        encode(*_recipe(trained, tmp_path / "out", "data.crop=random"))


def test_a_disk_without_room_is_no_end_of_a_run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))  # type: ignore[attr-defined]
    watch = go(tmp_path, "trainer.steps=2", first_stage=str(trained), stages=MODEL)
    assert any("0.0 GB left" in m and "encoded at each step" in m for m in watch.messages)
    assert (tmp_path / "model.safetensors").exists()


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[Path]:
    """Forty grey pictures, picture i of value 5 i; number 7 is no picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (16, 16), (5 * i,) * 3).save(folder / f"{i:02d}.png")
    (folder / "07.png").write_bytes(b"no picture")
    yield folder


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_replaced_and_its_captions_with_it(pictures: Path, tmp_path: Path, workers: int) -> None:
    stage = tmp_path / "stage"
    go(stage, stages=FIRST)
    dataset = {"use": "folder", "url": str(pictures), "max_bad": 0.1}
    said, cache, *_ = _made(stage, tmp_path / "out", f"data.workers={workers}", dataset=dataset)
    assert said["replaced"] == 1
    assert [cache.source(i) for i in range(40)] == [8 if i == 7 else i for i in range(40)]
    assert float(cache.moments(7).mean()) == pytest.approx(40 / 127.5 - 1, abs=1e-6)


def test_a_shard_in_object_storage_is_read_by_ranges(trained: Path) -> None:
    """In memory:// as on S3: a reader of one example asks for its bytes alone."""
    from ldm_core import storage

    said, cache, *_ = _made(trained, "memory://latents-test", "data.keep=0")
    asked: list[int] = []
    read = storage.read_bytes

    def spy(url: str, start: int | None = None, stop: int | None = None) -> bytes:
        data = read(url, start, stop)
        asked.append(len(data))
        return data

    storage.read_bytes = spy  # type: ignore[assignment]
    try:
        first = cache.moments(40)
        again = cache.moments(41)
    finally:
        storage.read_bytes = read
    size = first.numel() * 4
    assert asked == [size, 32 * 8, 32 * 8, size] and first.shape == again.shape  # the table of the shard comes once
    assert said["folder"].startswith("memory://latents-test/")
    storage.remove("memory://latents-test", recursive=True)


def test_the_shards_are_plain_safetensors(trained: Path, tmp_path: Path) -> None:
    said, cache, *_ = _made(trained, tmp_path)
    tensors = load_file(str(Path(said["folder"]) / "shard-00001.safetensors"))
    assert tensors["moments"].shape == (1, 32, *said["shapes"][0])
    assert torch.equal(tensors["moments"][0, 5], cache.moments(37))
    assert tensors["indices"].tolist() == list(range(32, 64))


def test_examples_of_several_sizes_are_encoded_at_theirs(tmp_path: Path) -> None:
    """Buckets: moments of wide and square pictures at their own sizes; a run trains on them as on images."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (32, 16) if i % 3 == 0 else (20, 20), (6 * i,) * 3).save(folder / f"{i:02d}.png")
    stage, dataset = tmp_path / "stage", {"use": "folder", "url": str(folder)}
    buckets = ("data.buckets=[[8, 16]]", "data.flip=true")
    go(stage, *buckets, stages=FIRST, dataset=dataset)
    for keep in (1 << 30, 0):
        said, cache, *_ = _made(stage, tmp_path / "out", *buckets, f"data.keep={keep}", dataset=dataset)
        assert said["shapes"] == [[3, 8, 16], [3, 16, 16]] and said["shards"] == 2
        for i in range(40):
            assert cache.moments(i, True).shape == ((3, 8, 16) if i % 3 == 0 else (3, 16, 16))
            assert float(cache.moments(i).mean()) == pytest.approx(6 * i / 127.5 - 1, abs=1e-5)
    changes: dict[str, Any] = {"first_stage": str(stage), "dataset": dataset, "stages": MODEL}
    go(tmp_path / "a", *buckets, f"trainer.latents={tmp_path / 'out'}", **changes)
    go(tmp_path / "b", *buckets, "trainer.cache_latents=false", **changes)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert max(float((a[k] - v).abs().max()) for k, v in b.items()) < 1e-5


def test_too_many_unreadable_images_end_the_encoding(pictures: Path, tmp_path: Path) -> None:
    go(stage := tmp_path / "stage", stages=FIRST)
    for i in (11, 12, 13):
        (pictures / f"{i}.png").write_bytes(b"no picture")
    dataset = {"use": "folder", "url": str(pictures), "max_bad": 0.05}
    before, run = multiprocessing.active_children(), ["trainer.cache_latents=false", "trainer.steps=20"]
    with pytest.raises(DataError, match="cannot be read, 2 may") as trained:
        go(tmp_path / "run", "data.workers=2", *run, first_stage=str(stage), dataset=dataset, stages=MODEL)
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"\d examples of 40 cannot be read, 2 may") as held:
            encode(*_recipe(stage, tmp_path / "out", f"data.workers={workers}", dataset=dataset))
        assert held.tb and trained.tb and multiprocessing.active_children() == before, "tracebacks keep workers"
