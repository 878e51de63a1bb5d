"""The check of a first stage: shapes of moments, latents and pictures, before they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage, Reconstruction, TrainableStage
from ldm_core.contracts.values import LatentSpec
from ldm_core.model.conformance.breaches import Named, breach, inside, named, shown, unsound
from ldm_core.model.conformance.bundle import lost
from ldm_core.recipe.recipe import Recipe


def hold_moments(part: Named, moments: Any, images: Tensor, latent: LatentSpec) -> None:
    """Moments (B, M, *s) of `images`, on their device."""
    grid = latent.shape(images.shape[2:])[1:]
    expected = f"moments ({len(images)}, M, {', '.join(map(str, grid))}) at stride {tuple(latent.stride)}"
    if not isinstance(moments, Tensor) or not moments.is_floating_point() or moments.dim() != 2 + len(grid):
        raise breach(part, "encode_moments", f"made {shown(moments)} of images {shown(images)}", expected)
    if len(moments) != len(images) or tuple(moments.shape[2:]) != tuple(grid):
        fix = "declare the stride that it has in its config's latent, or keep the one that it declares"
        raise breach(part, "encode_moments", f"made {shown(moments)} of images {shown(images)}", expected, fix)
    _hold_place(part, "encode_moments", moments, images)


def hold_latents(part: Named, z: Any, moments: Tensor, latent: LatentSpec) -> None:
    """Latents (B, C, *s) of `moments`, floating, on their device, finite in some row."""
    wanted = (len(moments), latent.channels, *moments.shape[2:])
    if not isinstance(z, Tensor) or tuple(z.shape) != wanted or not z.is_floating_point() or z.dtype == torch.float64:
        expected = f"float32 {wanted}, as its latent declares {latent.channels} channels"
        fix = "declare the channels that it writes"
        raise breach(part, "latents", f"made {shown(z)} of moments {shown(moments)}", expected, fix)
    _hold_place(part, "latents", z, moments)
    if lost(z) and not lost(moments):
        raise unsound(part, "latents", "latents")


def hold_pictures(part: Named, images: Any, z: Tensor, latent: LatentSpec, channels: int) -> None:
    """Pictures (B, c, H, W) of latents `z`."""
    wanted = (len(z), channels, *(cells * stride for cells, stride in zip(z.shape[2:], latent.stride, strict=False)))
    if not isinstance(images, Tensor) or tuple(images.shape) != wanted:
        raise breach(part, "decode", f"made {shown(images)} of latents {shown(z)}", f"pictures {wanted}")


def hold_pass(part: Named, made: object, images: Tensor) -> None:
    """The training pass of `images` (B, c, H, W)."""
    seen = shown(made.image) if isinstance(made, Reconstruction) else f"a {type(made).__name__}"
    if not isinstance(made, Reconstruction) or not isinstance(made.image, Tensor) or made.image.shape != images.shape:
        expected = f"a ldm_core.contracts.Reconstruction whose image is {tuple(images.shape)}"
        raise breach(part, "reconstruct", f"made {seen} of images {shown(images)}", expected)


def hold_start(part: Named, z: Tensor | None, shape: Sequence[int]) -> None:
    """The latents (N, *shape) encoded from pictures to begin from."""
    if z is not None and tuple(z.shape[1:]) != tuple(shape):
        raise breach(
            part, "latents", f"made {shown(z)} of pictures to begin from", f"(N, {', '.join(map(str, shape))})"
        )


def _hold_place(part: Named, method: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        fix = "create tensors on the device of the inputs or of the parameters, and never pick one"
        raise breach(part, method, f"put its result on {value.device}", f"{like.device}, where its input is", fix)


@torch.no_grad()
def hold_stage(
    part: Named, stage: Any, size: Sequence[int], channels: int, device: torch.device, *, trains: bool = False
) -> None:
    """One picture of `size` there and back, in eval mode: before a stage is trained, since its latents are not used
    until it is. `trains`: its training pass too. Draws from no generator of others."""
    mode = stage.training
    stage.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            generator = torch.Generator().manual_seed(0)
            images = (torch.rand((2, channels, *size), generator=generator) * 2 - 1).to(device)
            with inside(part, "encode_moments"):
                moments = stage.encode_moments(images)
            hold_moments(part, moments, images, stage.latent)
            with inside(part, "latents"):
                z = stage.latents(moments)
            hold_latents(part, z, moments, stage.latent)
            for method in ("project", "decode"):
                with inside(part, method):
                    made = getattr(stage, method)(z)
                if method == "decode":
                    hold_pictures(part, made, z, stage.latent, channels)
                    if lost(made):
                        raise unsound(part, method, "pictures")
                elif not isinstance(made, Tensor) or made.shape != z.shape:
                    raise breach(part, method, f"made {shown(made)} of {shown(z)}", f"latents {tuple(z.shape)}")
            if trains and isinstance(stage, TrainableStage):
                with inside(part, "reconstruct"):
                    again = stage.reconstruct(images, streams=None)
                hold_pass(part, again, images)
    finally:
        stage.train(mode)


def held_stage(stage: FirstStage, recipe: Recipe, catalog: Catalog, device: torch.device) -> FirstStage:
    """A recipe's first stage, passed by :func:`hold_stage`."""
    hold_stage(named(recipe.first_stage, catalog), stage, recipe.image_size, recipe.image_channels, device)
    return stage
