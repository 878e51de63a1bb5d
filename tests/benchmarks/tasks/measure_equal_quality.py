r"""Time to equal quality: settings of ours beside diffusers' network and schedulers, on the same weights.

The reference is diffusers at its defaults: DDIM, 50 steps, float32, two passes a step for classifier-free guidance. Its
best are the fewest steps of its DPM++ 2M and UniPC in bfloat16 that keep the quality. Quality is the Fréchet distance
of as many samples to real pictures by a layer of EfficientNet-Lite0 (no FID): kept where it is below the upper end of
the reference's bootstrap interval. Conditions and decoder are ours on both sides, as no pipeline of diffusers holds
every first stage and tokenizer; so the difference is of network, scheduler, guidance and loop, from the same noise:
DDIM gives the same pictures on both sides. Times are of whole batches, decoded, in turns.

    python measure_equal_quality.py runs/emoji --count 400 --batch 16 --out figures/equal.json

`--students` names runs of students of that model, each sampled as it was distilled to be, in bfloat16; a word with "="
is a setting of the student before it.

Pictures are kept beside the record, a file a setting, in a folder of this run, seed and settings; with `--only` some
are made at a time, and a last call without it measures all.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from run_options import Asked, Options, asked
from task_sets import features, frechet, images_of, network, own_data, record, sha256
from task_sets import model as model_of
from torch import nn

import ldm_core
from ldm_core.contracts import Cond, Precision
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.data import images
from ldm_core.data.collate import collate
from ldm_core.nn.torchvision_operators import importable
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.run import decoded

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from idleness import Others

Inputs = Sequence[Mapping[str, Any]]
Draw = Callable[[Inputs, int], NDArray[np.uint8]]
"""Inputs of a batch and the number of its first picture -> pictures (B, c, H, W)."""

REFERENCE = "diffusers ddim 50 fp32"
INTERVAL = "guidance.interval=[0.5,3]"
CACHED = ("adapters.cache.use=deep_cache",)
OURS = (
    ("ddim", 50, "fp32", ()),
    ("dpm_solver_pp_2m", 15, "bf16", (INTERVAL, *CACHED)),
    ("dpm_solver_pp_2m", 8, "bf16", (INTERVAL,)),
    *(("unipc", steps, "bf16", (INTERVAL,)) for steps in (8, 6, 5, 4)),
)
"""Sampler, steps, precision and further settings of ours, from the slowest on."""
THEIRS = (
    ("DDIMScheduler", 50, torch.float32),
    *(
        (name, steps, torch.bfloat16)
        for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
        for steps in (15, 12, 10, 8, 7, 6, 5)
    ),
)


@attrs.frozen
class Theirs:
    """Diffusers' U-Net with the run's weights, and the loop of its pipelines with one of its schedulers."""

    pipeline: Pipeline
    unet: Any
    scheduler: Any
    steps: int
    scale: float

    @classmethod
    def of(cls, pipeline: Pipeline, plain: Mapping[str, Any], kind: str, steps: int, dtype: torch.dtype) -> Theirs:
        """Diffusers' parts in `dtype`; `plain` is the run's complete recipe."""
        import diffusers
        from ldm_plugin_diffusers.scheduler.write import write_scheduler
        from ldm_plugin_diffusers.unet.write import write_unet

        side = max(pipeline.stage.latent.shape(pipeline.recipe.image_size)[1:])
        part = write_unet(dict(plain), cast(nn.Module, pipeline.model.denoiser).state_dict(), side)
        unet = diffusers.UNet2DConditionModel.from_config(part.config)
        unet.load_state_dict(dict(part.tensors))
        config = {**write_scheduler(dict(plain))[0], "_class_name": kind}
        scheduler = getattr(diffusers, kind).from_config(config)
        return cls(pipeline, unet.to(dtype).eval(), scheduler, steps, float(plain["guidance"]["scale"]))

    @torch.no_grad()
    def __call__(self, inputs: Inputs, first: int) -> NDArray[np.uint8]:
        model, dtype = self.pipeline.model, next(self.unet.parameters()).dtype
        conds = model.encode(collate(list(inputs)))
        with_, without = model.merged(conds), model.merged(model.nulls(conds))
        both = Cond.batch([without, with_])
        size = self.pipeline.stage.latent.shape(self.pipeline.recipe.image_size)
        x = Streams([mix_seed("start", first + i) for i in range(len(inputs))]).normal((len(inputs), *size))
        self.scheduler.set_timesteps(self.steps)
        x = (x * self.scheduler.init_noise_sigma).to(dtype)
        context = both.crossattn.to(dtype) if both.crossattn is not None else None
        for t in self.scheduler.timesteps:
            given = self.scheduler.scale_model_input(torch.cat([x, x]), t)
            out = self.unet(
                given, t, encoder_hidden_states=context, encoder_attention_mask=both.crossattn_mask, return_dict=False
            )[0]
            null, cond = out.chunk(2)
            x = self.scheduler.step(null + self.scale * (cond - null), t, x, return_dict=False)[0]
        precision: Precision = "fp32" if dtype == torch.float32 else "bf16"
        return decoded(self.pipeline.stage.decode, x.float(), precision)[0].numpy()


def own(run: str, precision: Any, more: Sequence[str]) -> Draw:
    """A run of ours with settings."""
    pipeline = ldm_core.load(run, precision=precision).with_settings(list(more))

    def draw(inputs: Inputs, first: int) -> NDArray[np.uint8]:
        return np.stack([s.image for s in pipeline.sample(inputs=list(inputs), seed=first, batch=len(inputs))])

    return draw


def students(words: Sequence[str]) -> dict[str, Draw]:
    """Students by the names of their folders and settings, with their own sampler and steps."""
    found: list[list[str]] = []
    for word in words:
        if "=" in word:
            found[-1].append(word)
        else:
            found.append([word])
    return {" ".join(["student", Path(run).name, *more]): own(run, "bf16", more) for run, *more in found}


def contenders(options: Options) -> dict[str, Draw]:
    """All settings by name: ours, theirs, and students."""
    pipeline = ldm_core.load(options.run)
    plain = yaml.safe_load((Path(options.run) / "recipe.yaml").read_text())
    found: dict[str, Draw] = {}
    for kind, steps, dtype in THEIRS:
        short = {"DDIMScheduler": "ddim", "DPMSolverMultistepScheduler": "dpm++ 2m"}.get(kind, "unipc")
        name = f"diffusers {short} {steps} {'fp32' if dtype == torch.float32 else 'bf16'}"
        found[name] = Theirs.of(pipeline, plain, kind, steps, dtype)
    for sampler, steps, precision, more in OURS:
        words = [f"ldm-core {sampler} {steps} {precision}"]
        words += ["interval"] * (INTERVAL in more) + ["cache"] * any("cache" in line for line in more)
        found[" ".join(words)] = own(options.run, precision, [f"sampler={sampler}", f"sample.steps={steps}", *more])
    return {**found, **students(options.students)}


def drawn(draw: Draw, inputs: Inputs, batch: int, keep: Path) -> NDArray[np.uint8]:
    """Pictures of all `inputs`, from the file `keep` where they were made before."""
    if keep.exists() and len(made := np.load(keep)) == len(inputs):
        return cast(NDArray[np.uint8], made)
    made = np.concatenate([draw(inputs[i : i + batch], i) for i in range(0, len(inputs), batch)])
    keep.parent.mkdir(parents=True, exist_ok=True)
    np.save(keep, made)
    return cast(NDArray[np.uint8], made)


def interval(made: NDArray[np.float64], real: NDArray[np.float64], rounds: int = 60) -> tuple[float, float]:
    """2.5 and 97.5 % of the distance over samples drawn again with repetition, moved onto the distance itself, as rows
    that come twice bias it upwards."""
    random, value = np.random.default_rng(0), frechet(made, real)
    values = np.array([frechet(made[random.integers(0, len(made), len(made))], real) for _ in range(rounds)])
    low, high = np.quantile(values - values.mean(), [0.025, 0.975])
    return value + float(low), value + float(high)


def timed(draws: Mapping[str, Draw], inputs: Inputs, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Images a second of each, the median of rounds in turns."""
    taken: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(rounds):
        for name, draw in draws.items():
            begun = clock()
            draw(inputs, 0)
            taken[name].append(clock() - begun)
    return {name: len(inputs) / statistics.median(values) for name, values in taken.items()}


def main() -> None:
    """Sample with each setting, measure, time those that keep the quality, and print."""
    more = (
        ("--batch", {"type": int, "default": 16}),
        ("--rounds", {"type": int, "default": 3, "help": "of the times"}),
        ("--side", {"type": int, "default": 64, "help": "side at which the network sees pictures"}),
        ("--only", {"nargs": "*", "default": [], "help": "parts of the names of settings, beside the reference"}),
        ("--students", {"nargs": "*", "default": [], "help": "runs of students, each with its settings"}),
        ("--cpu-time", {"action": "store_true", "help": "the process's own time, for a busy machine"}),
    )
    options = asked(Asked(__doc__ or "", weights=True, more=more))
    with importable():
        import diffusers  # noqa: F401
    count, batch = options.count or 400, options.batch
    found = model_of(options.run)
    training = own_data(options.run, found, options.pictures or ["split=train"])
    sees = network(options.weights, "blocks.6", options.side)
    assert found.pipeline is not None
    keys = found.pipeline.reads
    places = np.linspace(0, len(training) - 1, count).astype(int).tolist()
    inputs = [
        {key: each[key] for key in keys}
        for place in places
        for each in training.take(range(place, place + 1), keys).examples
    ]
    real = features(sees, images_of(training))
    draws, rows, rates_of = contenders(options), [], {}
    known = json.dumps([sha256(options.run), options.seed, options.set, options.pictures, INTERVAL, OURS])
    kept = Path(options.out).with_suffix("") / hashlib.sha256(known.encode()).hexdigest()[:12]
    shown: list[NDArray[np.uint8]] = []
    high, others = 0.0, Others()
    for name, draw in draws.items():
        if options.only and name != REFERENCE and not any(word in name for word in options.only):
            continue
        made = drawn(draw, inputs, batch, kept / f"{name.replace(' ', '_')}.npy")
        seen = features(sees, made)
        values = {"fd": frechet(seen, real)}
        if name == REFERENCE:
            low, high = interval(seen, real)
            values |= {"low": low, "high": high}
        if name == REFERENCE or values["fd"] <= high:
            rates_of[name] = draw
        shown += list(made[:12])
        rows.append((name, values))
        print(name, values, flush=True)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rates = timed(rates_of, inputs[:batch], options.rounds, clock)
    rows = [
        (name, {**values, **({"images/s": rates[name], "x": rates[name] / rates[REFERENCE]} if name in rates else {})})
        for name, values in rows
    ]
    sheet = Path(options.out).with_suffix(".png")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.write_bytes(images.png_bytes(images.grid(shown, columns=12)))
    document = {
        "run": options.run, "run_sha256": sha256(options.run), "samples": count, "batch": batch,
        "network": sees.source, "threads": torch.get_num_threads(), "others": others.line(),
    }  # fmt: skip
    record(options.out, document, rows)


if __name__ == "__main__":
    main()
