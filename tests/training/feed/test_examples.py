"""Examples as a run wants them: random cuts, several sizes, unreadable ones counted over workers and processes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import go

from ldm_core.builtin.shapes.config import ShapesConfig
from ldm_core.builtin.shapes.dataset import ShapesDataset
from ldm_core.contracts import Site
from ldm_core.data import geometry
from ldm_core.data.collate import collate, floats
from ldm_core.data.unreadable import BadExample, SkipBad, TooManyBad
from ldm_core.errors import DataError
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.engine.world import World
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.loader import Loader
from ldm_core.training.feed.order import Place

ROOT = Path(__file__).resolve().parents[3]
ALL = ["image", "segmentation", "boxes", "box_labels", "caption"]


class Pictures:
    """Pictures in memory; those of `bad` cannot be read."""

    def __init__(self, count: int = 16, bad: tuple[int, ...] = (), sizes: Any = ((16, 16),)) -> None:
        self.keys: Mapping[str, str] = {"image": "image", "name": "value"}
        self.classes: Mapping[str, int] = {}
        self.class_names: Mapping[str, tuple[str, ...]] = {}
        self.max_bad = 0.25
        self.count, self.bad, self.sizes, self.reads = count, bad, sizes, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        if index in self.bad:
            raise BadExample(f"picture {index}", "broken")
        height, width = self.sizes[index % len(self.sizes)]
        rng = np.random.default_rng(index)
        return {"image": rng.integers(0, 256, (3, height, width), dtype=np.uint8), "name": f"{index}"}

    def select(self, keys: Any) -> Pictures:
        return self

    def fingerprint(self) -> str:
        return "pictures"


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


def loader(
    examples: Any, *, workers: int = 0, steps: int = 6, here: World | None = None, images: int = 8, count: bool = True
) -> Loader:
    return Loader(
        examples,
        examples.arrangement,
        examples.keys,
        images_per_step=images,
        accumulate=2,
        steps=steps,
        world=here or world(),
        seed=3,
        workers=workers,
        bad=examples.dataset if count else None,
    )


# --------------------------------------------------------------------------------------------- random cuts


def test_a_cut_is_within_its_limits_and_everywhere() -> None:
    cuts = [geometry.Cut.drawn(seed, 0.5) for seed in range(4000)]
    shares = np.array([c.share for c in cuts])
    assert 0.5 <= shares.min() < 0.51 and 0.99 < shares.max() <= 1 and abs(shares.mean() - 0.75) < 0.01
    steps = [geometry.plan((48, 64), (32, 32), "crop", c) for c in cuts]
    for cut, step in zip(cuts, steps, strict=True):
        assert abs(step.resized[0] - 32 / cut.share) <= 0.5 and abs(step.resized[1] - 64 / 48 * 32 / cut.share) <= 0.5
        assert all(-(r - 32) <= o <= 0 for r, o in zip(step.resized, step.offset, strict=True))
    right = np.array([-s.offset[1] / max(1, s.resized[1] - 32) for s in steps])
    assert right.min() == 0 and right.max() == 1 and abs(right.mean() - 0.5) < 0.02
    whole = {geometry.plan((32, 64), (32, 32), "crop", geometry.Cut.drawn(seed)) for seed in range(2000)}
    assert {s.resized for s in whole} == {(32, 64)} and {-s.offset[1] for s in whole} == set(range(33))


def test_a_cut_is_what_is_cut_from_the_whole_resized_picture() -> None:
    rows, columns = np.mgrid[0:90, 0:70]
    waves = [127 + 120 * np.sin(rows / a + columns / b) for a, b in ((5, 9), (11, 4), (7, 7))]
    image = np.stack(waves).astype(np.uint8)
    for seed in range(20):
        step = geometry.plan((90, 70), (40, 24), "crop", geometry.Cut.drawn(seed, 0.4))
        got = geometry.fit({"image": image}, {"image": "image"}, (40, 24), cut=geometry.Cut.drawn(seed, 0.4))["image"]
        size = (step.resized[1], step.resized[0])
        whole = [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p in image]
        top, left = (-o for o in step.offset)
        want = np.stack(whole)[:, top : top + 40, left : left + 24].astype(int)
        assert np.abs(got - want).max() <= 2


def test_everything_moves_with_a_random_cut() -> None:
    """Independent of the code that moves boxes: the moved label map says where each object is."""
    data = ShapesDataset(ShapesConfig(shares=(1, 1, 1)), Site(size=(60, 84)))
    settings = DataSettings(crop="random", crop_scale=0.5, flip=True)
    examples = Examples(data, (48, 40), settings, ALL)
    dropped = 0
    for index in range(40):
        got = examples[Place(0, index, bool(index % 2), crop=1000 + index)]
        assert got["image"].shape == (3, 48, 40) and got["segmentation"].shape == (48, 40)
        assert len(got["boxes"]) == len(got["box_labels"])
        dropped += len(data[index]["boxes"]) - len(got["boxes"])
        for (x, y, w, h), label in zip(got["boxes"], got["box_labels"], strict=True):
            rows, columns = np.nonzero(got["segmentation"] == label + 1)
            if len(rows) < 20:
                continue
            ends = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            box = np.array([x * 40, y * 48, (x + w) * 40, (y + h) * 48])
            assert (ends - box)[:2].min() > -2 and (ends - box)[2:].max() < 2
    assert dropped > 5  # boxes of which less than a tenth was left, with their labels
    again = Examples(data, (48, 40), settings, ALL)
    for index in (7, 3):
        place = Place(0, index, bool(index % 2), crop=1000 + index)
        assert all(np.array_equal(again[place][k], examples[place][k]) for k in ALL)
    other, one = (examples[Place(0, 3, True, crop=crop)]["image"] for crop in (5, 6))
    assert not np.array_equal(other, one)


def test_what_is_cut_anew_each_time_is_decoded_once() -> None:
    data = Pictures()
    examples = Examples(data, (8, 8), DataSettings(crop="random"), ["image"])
    for crop in (1, 2, 3):
        _ = examples[Place(0, 5, False, crop=crop)]
    assert data.reads == 1
    nothing = Examples(data, (8, 8), DataSettings(crop="random", keep=0), ["image"])
    _ = nothing[Place(0, 5, False, crop=1)], nothing[Place(0, 5, False, crop=1)]
    assert data.reads == 3


# ------------------------------------------------------------------------------------------- several sizes


def test_each_example_takes_the_nearest_shape() -> None:
    data = Pictures(24, sizes=((20, 20), (20, 40), (45, 20)))
    settings = DataSettings(buckets=((8, 16), (16, 8)))
    examples = Examples(data, (8, 8), settings, ["image"])
    assert [examples.size_of(i) for i in range(4)] == [(8, 8), (8, 16), (16, 8), (8, 8)]
    assert examples[1]["image"].shape == (3, 8, 8)  # by index: the recipe's size
    shapes = []
    for micros in loader(examples, steps=12).steps(0):
        (shape,) = {m.batch["image"].shape[1:] for m in micros}
        shapes.append(tuple(shape[1:]))
        assert all(p.size == shapes[-1] for m in micros for p in m.places)
    assert {s: shapes.count(s) for s in set(shapes)} == {(8, 8): 4, (8, 16): 4, (16, 8): 4}
    ranks = [loader(examples, here=world(rank, 2), count=False) for rank in (0, 1)]
    two = [[m.batch["image"] for micros in rank.steps(5) for m in micros] for rank in ranks]
    one = [m.batch["image"] for ms in loader(examples).steps(5) for m in ms]
    assert torch.equal(torch.cat([two[0][0], two[1][0], two[0][1], two[1][1]]), torch.cat(one))


# -------------------------------------------------------------------------------------------------- workers


def _batches(examples: Any, workers: int, **more: Any) -> list[torch.Tensor]:
    return [m.batch["image"] for micros in loader(examples, workers=workers, **more).steps(0) for m in micros]


def test_batches_are_bit_equal_for_any_number_of_workers() -> None:
    settings = DataSettings(crop="random", crop_scale=0.5, flip=True, buckets=((8, 16),))
    state = torch.random.get_rng_state()
    made = []
    for workers in (0, 1, 2):
        examples = Examples(Pictures(20, bad=(3, 9), sizes=((16, 16), (16, 30))), (8, 8), settings, ["image"])
        made.append(_batches(examples, workers))
        assert examples.dataset.bad == {"picture 3": "broken", "picture 9": "broken"}
    assert all(torch.equal(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_examples_end_the_run_at_the_same_step(workers: int) -> None:
    examples = Examples(Pictures(16, bad=(0, 3, 6, 9, 12)), (8, 8), DataSettings(), ["image"])
    seen = 0
    with pytest.raises(TooManyBad, match="5 examples of 16 cannot be read, 4 may") as caught:
        for _ in loader(examples, workers=workers).steps(0):
            seen += 1
    assert seen == 1 and len(caught.value.bad) == 5  # the second step completes the epoch


def test_a_mistake_in_a_worker_is_told_as_it_is() -> None:
    class Fails(Pictures):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise DataError("the bucket is closed")

    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^the bucket is closed$"):
            _batches(Examples(Fails(), (8, 8), DataSettings(), ["image"]), workers)


def test_processes_tell_each_other_of_unreadable_examples() -> None:
    """Two loaders in threads that gather through a barrier stand for two processes."""
    barrier = threading.Barrier(2, timeout=20)
    slots: list[Any] = [None, None]

    class Two(World):
        def gather(self, value: Any) -> list[Any]:
            slots[self.rank] = value if not isinstance(value, dict) else dict(value)
            barrier.wait()
            out = list(slots)
            barrier.wait()
            return out

        def any(self, flag: bool) -> bool:
            return any(self.gather(flag))

    failed: dict[int, tuple[int, str]] = {}

    def run(rank: int) -> None:
        data = Pictures(64, bad=tuple(range(0, 64, 3)))
        data.max_bad = 0.3
        examples = Examples(data, (8, 8), DataSettings(), ["image"])
        count = 0
        try:
            for _ in loader(examples, here=Two(rank, 2, torch.device("cpu")), steps=40, images=4).steps(0):
                count += 1
        except TooManyBad as error:
            failed[rank] = count, str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed[0] == failed[1] and failed[0][0] == 15  # at the sixteenth step, each with all that both met
    assert "22 examples of 64 cannot be read, 19 may" in failed[0][1]


def test_counting_apart_leaves_the_count_to_others() -> None:
    skipping = SkipBad(Pictures(8, bad=(1,)), 0.25)
    with skipping.apart() as met:
        assert skipping[1]["name"] == "2"
    assert met == {"picture 1": "broken"} and skipping.bad == {}
    skipping.add(met)
    assert skipping.bad == met


def test_bytes_become_the_same_floats_later() -> None:
    examples = [{"image": np.arange(48, dtype=np.uint8).reshape(3, 4, 4), "name": "a"}] * 2
    raw = collate(examples, {"image": "image"}, raw=True)
    assert raw["image"].dtype == torch.uint8
    assert torch.equal(floats(raw, {"image": "image"})["image"], collate(examples)["image"])
    assert floats(raw)["name"] == ["a", "a"]


_SPAWNED = """
import torch, sys, hashlib
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.contracts import Site
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.loader import Loader
from ldm_core.training.engine.world import World

if __name__ == "__main__":
    torch.multiprocessing.set_start_method(sys.argv[4])
    data = FolderDataset(FolderConfig(url=sys.argv[1]), Site(size=(8, 8)))
    examples = Examples(data, (8, 8), DataSettings(flip=True), ["image"])
    _ = examples[0]
    for workers in (0, 1):
        made = Loader(examples, examples.arrangement, examples.keys, images_per_step=4, accumulate=1, steps=3,
                      world=World(0, 1, torch.device("cpu")), seed=1, workers=workers, bad=examples.dataset)
        state = hashlib.sha256()
        for (micro,) in made.steps(0):
            state.update(micro.batch["image"].numpy().tobytes())
        print(state.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (12, 9), (40 * i, 9, 9)).save(folder / f"{i}.png")
    script = tmp_path / "main.py"
    script.write_text(_SPAWNED)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(ROOT), str(ROOT / "tests" / "support"), method],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    one, two = done.stdout.split()
    assert one == two


_SIGNALLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
from ldm_core.training.feed.loader import Loader
from ldm_core.training.engine.world import World

seen = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: seen.append(1))
made = Loader(lambda place: {"index": place.index}, 10, {}, images_per_step=2, accumulate=1, steps=200,
              world=World(0, 1, torch.device("cpu")), seed=1, workers=2).steps(0)
for _ in range(3):
    next(made)
for number in (signal.SIGINT, signal.SIGTERM):
    os.killpg(0, number)
count = sum(1 for _ in made)
print(count, len(seen))
"""


@pytest.mark.slow
def test_signals_for_the_whole_group_leave_the_workers_at_work() -> None:
    """Ctrl-C in a terminal goes to all processes: the step is to end, and a checkpoint to be written."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, str(ROOT)],
        capture_output=True, text=True, timeout=120, start_new_session=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["197", "2"] and "Traceback" not in done.stderr


def test_a_run_lists_what_it_could_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for i in range(12):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (20 * i,) * 3).save(buffer, format="PNG")
        (folder / f"{i:02d}.png").write_bytes(buffer.getvalue()[: 60 if i == 5 else None])
    watch = go(tmp_path / "run", dataset={"use": "folder", "url": str(folder)}, stages=("first_stage",))
    assert any("1 unreadable example(s) passed over (05.png)" in m for m in watch.messages)
    name, why = (tmp_path / "run" / "bad_examples.txt").read_text().rstrip("\n").split("\t")
    assert name == "05.png" and "damaged or cut-off picture" in why
    for i in (6, 7):
        (folder / f"{i:02d}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read, 1 may"):
        go(tmp_path / "other", dataset={"use": "folder", "url": str(folder)}, stages=("first_stage",))
    assert not (tmp_path / "other" / "first_stage.safetensors").exists()
