"""The regression network beside a super-resolution run: the denoiser's own U-Net, trained on pixels without noise.

As in table 5 of the paper (arXiv 2112.10752) its input is the small picture and its output the large one, in one pass.
It works on the grid of the small picture: pixels of the bicubic enlargement are put into channels, the network adds to
them, and they are put back. Width, depth, crops and pictures a step are the run's; the loss is the absolute error
(``--loss l2``: its square). A step of 32 crops of 64 pixels takes 0.37 s of one core (2.8 million parameters).

    python train_regression.py runs/super_resolution --steps 2000 --out judges/regression.safetensors
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import Cond, LatentSpec, Site
from ldm_core.data.images import to_picture, to_planes


def small(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A picture (3, H, W) made smaller by Pillow's bicubic filter, antialiased: the degradation ``bicubic``."""
    height, width = picture.shape[1:]
    return to_planes(to_picture(picture).resize((width // factor, height // factor), Image.Resampling.BICUBIC))


def enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A picture (3, h, w) enlarged by Pillow's bicubic filter."""
    height, width = picture.shape[1:]
    return to_planes(to_picture(picture).resize((width * factor, height * factor), Image.Resampling.BICUBIC))


class Regression(nn.Module):
    """Bicubic enlargements (B, 3, H, W) in [-1, 1] -> pictures (B, 3, H, W); sides are multiples of factor * 2."""

    def __init__(self, config: UNetConfig, factor: int) -> None:
        super().__init__()
        self.factor = factor
        latent = LatentSpec(channels=3 * factor**2, stride=(factor, factor))
        self.network = UNet(config, Site(size=(64, 64), latent=latent))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        cells = F.pixel_unshuffle(x, self.factor)
        added = self.network(cells, x.new_zeros(len(x)), Cond())
        return x + F.pixel_shuffle(added.float(), self.factor)

    def save(self, path: str, told: dict[str, Any]) -> None:
        """Write the weights and what made them."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.contiguous() for key, value in self.state_dict().items()}
        save_file(tensors, path, metadata={"regression": json.dumps(told)})

    @classmethod
    def load(cls, path: str) -> Regression:
        """Read weights, strictly."""
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get("regression", "{}"))
        if "config" not in told:
            raise SystemExit(f"{path}: no regression network; train one with train_regression.py")
        config: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in told["config"].items()}
        made = cls(UNetConfig(**config), int(told["factor"]))
        made.load_state_dict(load_file(path))
        return made.eval()

    @torch.inference_mode()
    def pictures(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlargements (B, 3, H, W), uint8 -> pictures, uint8."""
        made = self(torch.from_numpy(images).float() / 127.5 - 1)
        return ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def crop(picture: NDArray[np.uint8], side: int, share: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """A square of a photograph at `side`: of a random place and size, at least `share` of its area or `side` wide."""
    height, width = picture.shape[1:]
    most = min(height, width)
    least = min(most, max(side, int(most * share**0.5)))
    length = int(random.integers(least, most + 1))
    top, left = int(random.integers(0, height - length + 1)), int(random.integers(0, width - length + 1))
    cut = np.ascontiguousarray(picture[:, top : top + length, left : left + length])
    if random.random() < 0.5:
        cut = np.ascontiguousarray(cut[:, :, ::-1])
    return to_planes(to_picture(cut).resize((side, side), Image.Resampling.BICUBIC)) if length != side else cut


def factor_of(recipe: Any) -> int:
    """How many times a super-resolution recipe enlarges."""
    (part,) = [each for each in recipe.conditioners if each.use == "low_resolution"]
    height = part.config.taken_sizes(recipe.image_size, recipe.first_stage.config.latent)[part.config.key][0]
    return int(recipe.image_size[0] // height)


def photographs(place: str, found: Any, settings: list[str]) -> list[NDArray[np.uint8]]:
    """The pictures of a run's data as they are stored, each of its own size."""
    from task_sets import own_data

    view = own_data(place, found, settings)._dataset.select(["image"])
    pictures = (view[i]["image"] for i in range(len(view)))
    return [each if isinstance(each, np.ndarray) else to_planes(each) for each in pictures]


def main() -> None:
    """Train and save."""
    from task_sets import model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a super-resolution run")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--loss", choices=("l1", "l2"), default="l1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    found = model(options.run)
    recipe, random = found.recipe, np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    factor, side = factor_of(recipe), recipe.image_size[0]
    network = Regression(recipe.denoiser.config, factor)
    denoiser: Any = None if found.pipeline is None else found.pipeline.model.denoiser
    counts = [sum(int(p.numel()) for p in each.parameters()) for each in (network, denoiser)]
    print(f"regression {counts[0]:,} parameters, denoiser {counts[1]:,}")
    known = photographs(options.run, found, ["split=train"])
    optimizer = torch.optim.AdamW(network.parameters(), options.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps, pct_start=0.05)
    begun = time.perf_counter()
    for step in range(options.steps):
        cuts = [
            crop(known[i], side, recipe.data.crop_scale, random) for i in random.integers(0, len(known), options.batch)
        ]
        pairs = np.stack([np.stack((enlarged(small(cut, factor), factor), cut)) for cut in cuts])
        given, wanted = (torch.from_numpy(pairs[:, i]).float() / 127.5 - 1 for i in (0, 1))
        with torch.autocast("cpu", torch.bfloat16):
            made = network(given)
        loss = F.l1_loss(made, wanted) if options.loss == "l1" else F.mse_loss(made, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(
                f"step {step + 1}/{options.steps}: {loss.item():.4f}, {time.perf_counter() - begun:.0f} s", flush=True
            )
    told = {**vars(options), "config": attrs.asdict(recipe.denoiser.config), "factor": factor, "parameters": counts}
    told["seconds"] = round(time.perf_counter() - begun)
    network.save(options.out, told)


if __name__ == "__main__":
    main()
