"""Images a second of this sampler and of diffusers' text-to-image pipeline, on the same weights and noise.

A pipeline with random weights is made with diffusers (the paper's text model at a fraction of its width: a KL
autoencoder of factor 8, a text encoder, a U-Net with cross-attention), saved, and loaded here through the codec
`diffusers`. Both sample the same prompts from the same noise with DDIM under classifier-free guidance. Rounds
alternate, the median of each counts, and only ratios within one run mean anything. Run it on an idle machine:
python THIS_FILE [--rounds 5]. Wanted: ours in fp32 at least 1.0 of theirs in fp32; in bf16 at least 1.5 on a CPU with
bf16 instructions; with a guidance interval 1.4 more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from idleness import Others

import ldm_core
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.nn.torchvision_operators import importable

SIZES: dict[str, dict[str, Any]] = {
    "small": {"channels": 64, "mult": (1, 2, 4), "image": 128, "context": 256, "layers": 4, "batch": 4},
    "medium": {"channels": 128, "mult": (1, 2, 4, 4), "image": 256, "context": 512, "layers": 8, "batch": 1},
}
WORDS = ("a", "the", "red", "blue", "green", "small", "large", "cat", "dog", "house", "tree", "on", "in", "front", "of")
PROMPTS = [
    "a red cat on the house",
    "a small dog in front of the green tree",
    "the blue tree",
    "a house in front of a dog",
]
_SCALE, _HEADS, _LENGTH = 3.0, 8, 77


def make(size: dict[str, Any], folder: Path) -> None:
    """Write diffusers' pipeline with random weights to `folder`."""
    from diffusers import AutoencoderKL, DDIMScheduler, LDMTextToImagePipeline, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    torch.manual_seed(0)
    widths = tuple(size["channels"] * m for m in size["mult"])
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",) * (len(widths) - 3)
    unet = UNet2DConditionModel(
        sample_size=size["image"] // 8, in_channels=4, out_channels=4, block_out_channels=widths, layers_per_block=2,
        down_block_types=down, up_block_types=tuple(d.replace("Down", "Up") for d in reversed(down)),
        cross_attention_dim=size["context"], attention_head_dim=_HEADS,
    )  # fmt: skip
    stage = AutoencoderKL(
        block_out_channels=tuple(32 * m for m in (1, 2, 4, 4)), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=size["image"],
        scaling_factor=0.18215,
    )  # fmt: skip
    bert = LDMBertModel(LDMBertConfig(
        vocab_size=len(WORDS) + 5, d_model=size["context"], encoder_layers=size["layers"], encoder_attention_heads=8,
        encoder_ffn_dim=4 * size["context"], head_dim=64, max_position_embeddings=_LENGTH,
    ))  # fmt: skip
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    tokenizer = BertTokenizer(str(vocabulary), model_max_length=_LENGTH)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    pipeline = LDMTextToImagePipeline(vqvae=stage, bert=bert, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
    pipeline.save_pretrained(str(folder / "pipeline"))


def theirs(folder: Path, size: dict[str, Any], steps: int, dtype: torch.dtype) -> Callable[[], np.ndarray]:
    """Their sampler on the noise that ours starts from."""
    from diffusers import LDMTextToImagePipeline

    pipeline = LDMTextToImagePipeline.from_pretrained(str(folder / "pipeline"), torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    cells, batch = size["image"] // 8, size["batch"]
    noise = Streams([mix_seed("start", i) for i in range(batch)]).normal((batch, 4, cells, cells)).to(dtype)

    def run() -> np.ndarray:
        with torch.no_grad():
            made = pipeline(
                PROMPTS[:batch], height=size["image"], width=size["image"], num_inference_steps=steps, latents=noise,
                guidance_scale=_SCALE, eta=0.0, output_type="pt",
            )  # fmt: skip
        return made.images.float().numpy() * 255

    return run


def ours(folder: Path, size: dict[str, Any], steps: int, **changes: Any) -> Callable[[], np.ndarray]:
    """Our sampler; `changes`: `precision`, `prepare=False`, `interval`."""
    pipeline = ldm_core.load(str(folder / "pipeline"), precision=changes.get("precision", "fp32"))
    if not changes.get("prepare", True):
        pipeline.model.denoiser.prepare = lambda cond: cond  # type: ignore[attr-defined]
    guidance = {"use": "cfg", "scale": _SCALE, "interval": changes.get("interval")}
    pipeline = pipeline.with_settings({"guidance": guidance})

    def run() -> np.ndarray:
        made = pipeline.sample(PROMPTS[: size["batch"]], steps=steps, seed=0)
        return np.stack([s.image for s in made]).astype(np.float64)

    return run


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, of values from 0 to 255."""
    return float(10 * np.log10(255**2 / max(1e-12, float(np.mean((a - b) ** 2)))))


def report(name: str, steps: int, rounds: int, interval: Sequence[float], clock: Callable[[], float]) -> None:
    """One size: images a second of each, in turns."""
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(size, folder)
        runs: dict[str, Callable[[], np.ndarray]] = {
            "diffusers fp32": theirs(folder, size, steps, torch.float32),
            "ldm-core fp32": ours(folder, size, steps),
            "  keys and values anew": ours(folder, size, steps, prepare=False),
            "diffusers bf16": theirs(folder, size, steps, torch.bfloat16),
            "ldm-core bf16": ours(folder, size, steps, precision="bf16"),
            "ldm-core bf16, interval": ours(folder, size, steps, precision="bf16", interval=list(interval)),
            "ldm-core fp32, interval": ours(folder, size, steps, interval=list(interval)),
        }
        first = {n: run() for n, run in runs.items()}  # does not count
        taken: dict[str, list[float]] = {n: [] for n in runs}
        for _ in range(rounds):
            for n, run in runs.items():
                begun = clock()
                run()
                taken[n].append(clock() - begun)
    base = statistics.median(taken["diffusers fp32"])
    print(f"{name}: {size['batch']} of {size['image']} px, {steps} steps, {torch.get_num_threads()} threads")
    for n, values in taken.items():
        value = statistics.median(values)
        print(f"  {n:<24} {size['batch'] / value:7.3f} images/s  {base / value:5.2f} x  "
              f"{psnr(first['diffusers fp32'], first[n]):6.1f} dB to the first")  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--interval", type=float, nargs=2, default=(0.5, 2.0), help="of the guidance")
    parser.add_argument("--cpu-time", action="store_true", help="the process's own time, for a busy machine")
    options = parser.parse_args()
    with importable():
        import diffusers  # noqa: F401
    others = Others()
    for name in SIZES if options.size == "all" else [options.size]:
        clock = time.process_time if options.cpu_time else time.perf_counter
        report(name, options.steps, options.rounds, options.interval, clock)
    print(others.line())


if __name__ == "__main__":
    main()
