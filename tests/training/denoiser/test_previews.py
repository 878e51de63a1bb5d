"""Samples on the way and at the end of a run: the same on any number of processes, and without a trace in training."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import TINY, Watch, go, weights

from ldm_core import hookimpl
from ldm_core.config.documents import dump_yaml
from ldm_core.contracts import DataInfo
from ldm_core.errors import Interrupted
from ldm_core.sampling.made_from import caption
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.result import Sampled
from ldm_core.training.samples import layouts
from ldm_core.training.samples import sheets as sample_sheets

STEPS = TINY["trainer"]["steps"]


class Seen(Watch):
    """An observer that also keeps the pictures it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, int, str]] = []

    @hookimpl
    def ldm_images(self, stage: str, step: int, name: str, url: str) -> None:
        self.shown.append((stage, step, name))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without previews."""
    out = tmp_path_factory.mktemp("plain")
    go(out)
    return out


def test_previews_leave_the_training_alone(plain: Path, tmp_path: Path) -> None:
    """Bit for bit the same weights; and the last one is the sheet at the end, whose weights and seeds it has."""
    watch = Seen()
    states = []
    for every, out in ((0, tmp_path / "again"), (4, tmp_path)):
        torch.manual_seed(5)
        go(out, f"trainer.preview_every={every}", watch=watch)
        states.append(torch.get_rng_state())
    assert torch.equal(*states), "a preview moves the global generator"
    names = [f"samples-{s:08d}.png" for s in (4, STEPS)]
    assert sorted(p.name for p in (tmp_path / "previews").iterdir()) == names
    assert [p for p in watch.shown if p[2].startswith("previews")] == [
        ("denoiser", step, f"previews/{name}") for step, name in zip((4, STEPS), names, strict=True)
    ]
    first, second = weights(plain), weights(tmp_path)
    assert all(torch.equal(first[k], second[k]) for k in first)
    sheets = [(tmp_path / "previews" / name).read_bytes() for name in names]
    assert sheets[1] == (tmp_path / "samples.png").read_bytes() == (plain / "samples.png").read_bytes()
    assert sheets[0] != sheets[1]


@pytest.mark.slow
def test_two_processes_draw_the_same_samples(tmp_path: Path) -> None:
    """Five images, three of one process and two of the other, on the way and at the end."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_yaml({**TINY, "sample": {"steps": 3, "images": 5}}))
    sheets: list[bytes] = []
    for processes in (1, 2):
        out = tmp_path / f"run{processes}"
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"] if processes > 1 else []
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "ldm_core.cli", "--recipe", str(recipe), "--out", str(out),
             f"trainer.preview_every={STEPS}"],
            capture_output=True, text=True, timeout=180, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(list((out / "samples").iterdir())) == 5
        preview = (out / "previews" / f"samples-{STEPS:08d}.png").read_bytes()
        assert preview == (out / "samples.png").read_bytes()
        sheets.append(preview)
    first, second = (np.asarray(Image.open(io.BytesIO(s)), dtype=int) for s in sheets)
    assert np.abs(first - second).max() <= 2, "weights differ by the rounding of their sums, no more"


class _World:
    """One of three processes; what the others give is known beforehand."""

    def __init__(self, rank: int, others: dict[int, Any]) -> None:
        self.rank, self.size, self._others = rank, 3, others
        self.main = rank == 0

    def gather(self, value: Any) -> list[Any]:
        self._others[self.rank] = value
        return [self._others.get(r, ("", [])) for r in range(self.size)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_come_together_in_order(plain: Path, count: int) -> None:
    """Also where there are fewer images than processes. Image i is the one that a single process draws."""
    pipeline = Pipeline.load(str(plain), device="cpu")
    settings = attrs.evolve(pipeline.recipe.sample, images=count, steps=1)
    pipeline = pipeline.with_recipe(attrs.evolve(pipeline.recipe, sample=settings))
    shares: dict[int, Any] = {}
    for rank in (2, 1, 0, 2, 1):  # hand in what each has; whole is only what the last calls put together
        with contextlib.suppress(IndexError):
            sample_sheets.sample(pipeline, [], _World(rank, shares))  # type: ignore[arg-type]
    made = sample_sheets.sample(pipeline, [], _World(0, shares))  # type: ignore[arg-type]
    whole = pipeline.sample(images=count)
    assert [m.seed for m in made] == [w.seed for w in whole] == list(range(count))
    assert all(np.array_equal(m.image, w.image) for m, w in zip(made, whole, strict=True))


def test_a_preview_that_is_stopped_leaves_nothing_half(plain: Path, tmp_path: Path) -> None:
    """SIGTERM while it samples: no file, the checkpoint as ever, and the run goes on to the same end."""
    asked: list[Any] = []
    original = Pipeline.stream

    def stopping(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
        if not asked:
            asked.append(True)
            os.kill(os.getpid(), 15)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "stream", stopping)
        with pytest.raises(Interrupted, match="step 5 of 8"):
            go(tmp_path, "trainer.preview_every=4")
    assert not (tmp_path / "previews").exists()
    go(tmp_path, "trainer.preview_every=4")
    first, second = weights(plain), weights(tmp_path)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_too_little_memory_is_a_warning(tmp_path: Path) -> None:
    def refuse(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "stream", refuse)
        watch = go(tmp_path, "trainer.preview_every=4", stages=("first_stage", "latents", "denoiser"))
    assert [m for m in watch.messages if "no preview at step" in m]
    assert (tmp_path / "model.safetensors").exists() and not (tmp_path / "previews").exists()


def _sampled(value: int) -> Sampled:
    return Sampled(np.full((3, 16, 16), value, dtype=np.uint8), "", 0, {})


def test_label_maps_stand_beside_the_images() -> None:
    labels = np.zeros((16, 16), dtype=np.int64)
    labels[:, 8:] = 1
    info = DataInfo(keys={"segmentation": "map"})
    sheet = sample_sheets.sheet([_sampled(7)], [{"segmentation": labels}], info)
    assert sheet.shape == (3, 128 + 8, 2 * 128 + 2 + 8)
    left, right = sheet[:, 4:132, 4:132], sheet[:, 4:132, 134:262]
    assert (right == 7).all()
    colours = [tuple(left[:, 60, x]) for x in (10, 120)]
    assert colours == [layouts.colour(0), layouts.colour(1)] and colours[0] != colours[1]


def test_boxes_stand_beside_the_images() -> None:
    info = DataInfo(keys={"boxes": "boxes", "box_labels": "per_box"}, class_names={"box_labels": ("cat", "dog")})
    row = {"boxes": np.array([[0.25, 0.5, 0.5, 0.25]], dtype=np.float32), "box_labels": np.array([1])}
    sheet = sample_sheets.sheet([_sampled(7), _sampled(9)], [row], info)
    left = sheet[:, 4:260, 4:260].astype(int)
    outline = (left == np.array(layouts.colour(1))[:, None, None]).all(0)
    ys, xs = np.nonzero(outline)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (64, 191, 128, 191), "x, y, w, h as shares of 255 pixels"
    assert caption(row, info.class_names) == "dog"


@pytest.mark.parametrize("size", [(256, 256), (160, 384)])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_tags_of_boxes_lie_apart_and_within(size: tuple[int, int], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes that all begin at one place, at each corner: no tag covers another, none leaves the picture."""
    tags: list[layouts.Area] = []
    place = layouts._place

    def noted(*arguments: Any) -> layouts.Area:
        tags.append(place(*arguments))
        return tags[-1]

    monkeypatch.setattr(layouts, "_place", noted)
    names = ("a", "a class with quite a long name", "b" * 200, "Ünïcode", "\x1b[31m", "0", "1", "2")
    for x, y in ((0.0, 0.0), (0.9, 0.0), (0.0, 0.9), (0.9, 0.9), (0.4, 0.4)):
        boxes = np.tile([[x, y, 0.1, 0.1]], (count, 1)).astype(np.float32)
        drawn = layouts.drawn(boxes, np.arange(count), size, names)
        assert drawn.shape == (3, *size) and len(tags) == count
        for i, one in enumerate(tags):
            assert one[0] >= 0 and one[1] >= 0 and one[2] < size[1] and one[3] < size[0]
            assert not any(layouts._meet(one, other) for other in tags[:i])
        tags.clear()


def test_boxes_without_labels_and_odd_ones_are_drawn() -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.0, 0.0], [0.9, 0.9, 0.5, 0.5]])
    for labels in (None, np.array([3, 99, -1])):
        assert layouts.drawn(boxes, labels, (64, 64), ()).shape == (3, 64, 64)
    assert (layouts.drawn(np.zeros((0, 4)), None, (64, 64), ()) == 245).all()


def test_classes_have_colours_of_their_own() -> None:
    colours = [layouts.colour(i) for i in range(24)]
    distances = [sum(abs(a - b) for a, b in zip(x, y, strict=True)) for x in colours for y in colours if x != y]
    assert len(set(colours)) == 24 and min(distances) > 20


@pytest.mark.parametrize(
    ("captions", "columns"),
    [
        (list("abcdefghij") * 4, 10),  # classes in turn: a column each
        (list("ab") * 20, 8),
        (list("abc") * 2, 3),
        (["a"] * 9, 4),
        (list("abcdefghi"), 4),
        (list("aabb"), 3),
        ([*"ab" * 4, "c"], 4),
        ([str(i) for i in range(40)] * 2, 13),  # 40 columns would be one strip
    ],
)
def test_captions_that_come_round_stand_below_each_other(captions: list[str], columns: int) -> None:
    made = [attrs.evolve(_sampled(0), prompt=text) for text in captions]
    shape = sample_sheets.sheet(made, [], DataInfo(keys={})).shape
    assert (shape[2] - 4) // (128 + 4) == columns
