"""Growth of sampling: seconds and memory against the images of a batch, the side of the pictures, and the steps.

    python tests/benchmarks/machine/bench_growth.py [RUN] --out FOLDER [--batches 1,2,...] [--sizes 32,64,...]
        [--steps 1,2,...] [--rounds 3] [--limit 60] [--threads N] [--cpu-time]

RUN is a trained run; without one, a model of drawn weights is made (`kl_f8`, a U-Net of three levels with attention on
the lower two, classes), which is as fast. A row is a whole call of ``sample``, decoded pictures included, beside the
first row of its table in turns; the middle ratio of the rounds counts, and a series ends before a call of more than
--limit seconds by its own growth so far. Memory is the rise of the largest resident set over the loaded model, in a
process for each row. Writes growth.md, .csv, .png and .svg. On a busy machine give --cpu-time: processor time of one
thread; ratios hold better than the numbers do.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ldm_plugin_study.study import files

import ldm_core
from ldm_core.weights.open import Wanted

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from idleness import Others

MIB = 1 << 20
BASE: dict[str, int] = {"batch": 1, "size": 64, "steps": 5}
TABLES = {"batch": "images of a batch", "size": "side of the pictures", "steps": "steps"}
MADE: dict[str, Any] = {
    "image_size": 128,
    "scale": "small",
    "first_stage": "kl_f8",
    "conditioners": [{"use": "class_label", "classes": 32, "dropout": 0.1}],
    "denoiser": {"use": "unet", "channels": 64, "channel_mult": [1, 2, 2], "attention": [2, 4], "heads": 4},
    "dataset": {"use": "shapes", "scenes": 16, "val_scenes": 8},
    "sampler": "ddim",
    "time_grid": "trailing",
    "guidance": "cfg",
    "first_stage_trainer": {"steps": 1, "images_per_step": 2},
    "trainer": {"steps": 1, "images_per_step": 2},
    "sample": {"images": 1, "steps": 1},
    "observers": [],
}


class Row(NamedTuple):
    """A call: its setting, seconds, ratio to the first row's, and MiB above the loaded model."""

    setting: int
    seconds: float
    ratio: float
    memory: float


class Model:
    """A run's pipelines, one for each side of the pictures, over the same mapped weights."""

    def __init__(self, run: str) -> None:
        self.run, self.own = run, ldm_core.load(run, device="cpu")
        self._sized = {self.own.recipe.image_size[0]: self.own}

    def load(self, size: int) -> None:
        """Have the pipeline of a side: before a fork, so that its weights are none of a call's memory."""
        if size not in self._sized:
            wanted = Wanted(given={"image_size": [size, size]})
            self._sized[size] = ldm_core.load(self.run, device="cpu", wanted=wanted)

    def call(self, setting: dict[str, int]) -> None:
        """Sample one batch."""
        pipeline, batch = self._sized[setting["size"]], setting["batch"]
        inputs = {key: 1 if key == "class_label" else "a red circle" for key in pipeline.reads}
        pipeline.sample(inputs=inputs or None, images=batch, batch=batch, steps=setting["steps"], seed=0)


def measured(
    model: Model, settings: Sequence[dict[str, int]], rounds: int, threads: int, clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Seconds of the calls, the last of `settings` beside the first, `rounds` times; in a process of its own."""
    torch.set_num_threads(threads)
    for setting in settings:
        model.call({**setting, "steps": 1})
    pairs = []
    for number in range(rounds):
        taken = {}
        for setting in settings if number % 2 == 0 else [*reversed(settings)]:
            begun = clock()
            model.call(setting)
            taken[id(setting)] = clock() - begun
        pairs.append((taken[id(settings[0])], taken[id(settings[-1])]))
    return pairs


def risen(model: Model, setting: dict[str, int], threads: int) -> float:
    """MiB that the largest resident set rises by in a call, after a first one."""
    torch.set_num_threads(threads)
    model.call({**setting, "steps": 1})
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    model.call({**setting, "steps": 1})
    return max(0.0, _resident("VmHWM") - before)


def _resident(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def apart(work: Callable[[], Any]) -> Any:
    """The result of `work`, plain values, in a forked process; None if that was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            result = json.dumps(work())
            with os.fdopen(writer, "w") as out:
                out.write(result)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as found:
        text = found.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def series(model: Model, key: str, values: Sequence[int], options: argparse.Namespace) -> list[Row]:
    """The rows of one table, up to the limit of seconds."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    base, rows = {**BASE, key: values[0]}, list[Row]()
    for value in values:
        if len(rows) > 1:
            a, b = rows[-2:]
            steepness = max(1.0, (b.seconds / a.seconds) ** (1 / max(b.setting / a.setting - 1, 1e-9)))
            guess = b.seconds * max(value / b.setting, steepness ** (value / b.setting - 1))
            if guess > options.limit:
                print(f"  {key} {value}: about {guess:.0f} s, left out", flush=True)
                break
        both = [base, {**base, key: value}]
        for each in both:
            model.load(each["size"])
        pairs = apart(partial(measured, model, both, options.rounds, options.threads, clock))
        memory = apart(partial(risen, model, both[-1], options.threads))
        if pairs is None or memory is None:
            print(f"  {key} {value}: ended for want of memory", flush=True)
            break
        first = rows[0].seconds if rows else statistics.median(a for a, _ in pairs)
        ratio = statistics.median(b / a for a, b in pairs) if rows else 1.0
        rows.append(Row(value, first * ratio, ratio, memory))
        print(f"  {key} {value}: {first * ratio:.3g} s, {ratio:.3g} x the first, {memory:.0f} MiB", flush=True)
    return rows


def table(key: str, rows: Sequence[Row]) -> list[str]:
    """Markdown: of a batch also images a second and the time a picture beside the first row's."""
    head = [TABLES[key], "seconds a call", "of the first row", "MiB above the model"]
    head += (
        ["images a second", "time a picture / batch 1"]
        if key == "batch"
        else ["milliseconds a step" if key == "steps" else "ms a thousand pixels"]
    )
    lines: list[tuple[str, ...]] = [tuple(head)]
    for row in rows:
        cells = [str(row.setting), f"{row.seconds:.3g}", f"{row.ratio:.3g}", f"{row.memory:.0f}"]
        if key == "batch":
            cells += [f"{row.setting / row.seconds:.3g}", f"{row.ratio / row.setting:.2f}"]
        else:
            cells += [f"{1000 * row.seconds / (row.setting if key == 'steps' else row.setting**2 / 1000):.3g}"]
        lines.append(tuple(cells))
    return files.markdown_table(lines)


def picture(found: dict[str, list[Row]]) -> Any:
    """Seconds above, memory below, a column a table."""
    canvas = files.canvas(4 * len(found), 6)
    panels = canvas.subplots(2, len(found), squeeze=False)
    for column, (key, rows) in zip(panels.T, found.items(), strict=True):
        for axes, values, said in zip(column, ([r.seconds for r in rows], [r.memory for r in rows]),
                                      ("seconds a call", "MiB above the model"), strict=True):  # fmt: skip
            axes.plot([r.setting for r in rows], values, "o-")
            axes.set_xscale("log", base=2)
            if max(values) > 2 * min(values):
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 2 * max(values))
            axes.set_xticks([r.setting for r in rows], [str(r.setting) for r in rows])
            axes.set_xlabel(TABLES[key])
            axes.set_ylabel(said)
            axes.grid(alpha=0.3)
    return canvas


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--out", required=True)
    numbers = lambda text: [int(each) for each in text.split(",")]  # noqa: E731
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--sizes", type=numbers, default=[32, 64, 128, 256, 512])
    parser.add_argument("--steps", type=numbers, default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    options.threads = 1 if options.cpu_time else options.threads
    others = Others()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run
        if run is None:
            run = apart(lambda: str(ldm_core.train(MADE, out=folder).folder))  # its threads would not survive a fork
        model = Model(run)
        BASE["size"] = model.own.recipe.image_size[0]
        found = {
            key: series(model, key, values, options)
            for key, values in (("batch", options.batches), ("size", options.sizes), ("steps", options.steps))
            if values
        }
    kind = "processor time of one thread" if options.cpu_time else f"wall time, {options.threads} threads"
    about = f"{model.own!r}; unless a table varies it, batch 1, {BASE['size']} pixels, {BASE['steps']} steps; {kind}"
    lines = [f"{about}; {others.line()}."]
    for key, rows in found.items():
        lines += ["", *table(key, rows)]
    cells = [(key, *row) for key, rows in found.items() for row in rows]
    written = files.write(
        options.out, "growth", csv=[("table", *Row._fields), *cells], markdown=[*lines, "", "![Growth](growth.svg)"],
        plain={key: [row._asdict() for row in rows] for key, rows in found.items()}, canvas=picture(found),
    )  # fmt: skip
    print("\n".join(["", *lines, "", *written]))


if __name__ == "__main__":
    main()
