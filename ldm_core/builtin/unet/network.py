"""The time-conditional U-Net, with the key names of the published latent diffusion checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.contracts import BlockSpan, Denoiser, Site, WeightSlice
from ldm_core.contracts.conditioning import Cond
from ldm_core.nn.attention import AttentionBlock, KeysValues, SpatialTransformer, joint_mask
from ldm_core.nn.embeddings import timestep_embedding
from ldm_core.nn.norms import group_norm, zero_init
from ldm_core.nn.recompute import recompute
from ldm_core.nn.unet_blocks import Downsample, ResBlock, Upsample

_KEYS, _VALUES = "keys/{}/{}", "values/{}/{}"
"""Extras of a prepared bundle: by the address of a stage, and the number of a block in its transformer."""


class UNetStage(nn.Sequential):
    """Layers of one index of the U-Net, each handed what it takes: the embedding, the context, or x alone."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        emb: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        given: Sequence[KeysValues] | None = None,
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, mask, given)
            else:
                x = layer(x)
        return x


class InputSkip(nn.Module):
    """A linear map of the channels of each position (B,C,h,w) -> (B,out,h,w), with weights made of the embedding.

    The best linear estimate of noise from noisy latents, and from a picture beside them that is close to the answer, is
    such a map; behind the normalisations of the blocks it is hard to learn. It begins as zero.
    """

    def __init__(self, emb_width: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.shape = (out_channels, channels)
        self.weight = zero_init(nn.Linear(emb_width, out_channels * channels))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        weight = self.weight(F.silu(emb)).view(-1, *self.shape)
        return (weight @ x.flatten(2)).unflatten(2, x.shape[2:])


class UNet(nn.Module, Denoiser):
    """The network F of a latent diffusion model (arXiv 2112.10752, appendix E.2.1).

    Latents (B,C,h,w) of any h, w divisible by 2**(levels - 1). `site.latent` and `site.cond` give the widths:
    concat conditioning joins x on the channel axis, behind it; cross-attention conditioning turns every
    attention into a spatial transformer; a vector is embedded and added to the embedding of the noise level.
    Residual conditioning is added at the sites `in.i` (output of input block i, so also its skip), `skip.i`
    (that skip alone) and `mid`.
    """

    def __init__(self, config: UNetConfig, site: Site) -> None:
        super().__init__()
        if site.latent is None:
            raise ValueError("the U-Net needs site.latent, the shape of the latents that it denoises")
        if misfits := list(config.check(site)):
            raise ValueError("unet: " + "; ".join(misfits))
        self.config, self.cond_spec = config, site.cond
        self.latent_channels = site.latent.channels
        width = config.channels
        emb_width = 4 * width
        self.time_embed = _embedding(width, emb_width)
        if site.cond.vector:
            self.label_emb = nn.Sequential(_embedding(site.cond.vector, emb_width))

        width, skips = self._add_inputs(self.latent_channels + site.cond.concat)
        self.middle_block = UNetStage(
            self._res_block(width, width), self._attention(width), self._res_block(width, width)
        )
        width = self._add_outputs(width, skips)
        self.out = nn.Sequential(
            group_norm(width, config.norm_groups, eps=1e-5),
            nn.SiLU(),
            zero_init(nn.Conv2d(width, self.latent_channels, 3, padding=1)),
        )
        if config.input_skip:
            self.input_skip = InputSkip(emb_width, self.latent_channels + site.cond.concat, self.latent_channels)
        if config.checkpoint:
            recompute(self.recompute_blocks())

    def _add_inputs(self, channels: int) -> tuple[int, list[int]]:
        """Make the way down from `channels`; its width at the end, and that of each skip."""
        config, width = self.config, self.config.channels
        self.input_blocks = nn.ModuleList([UNetStage(nn.Conv2d(channels, width, 3, padding=1))])
        skips = [width]
        last = len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.res_blocks):
                stage = UNetStage(self._res_block(width, config.channels * mult))
                width = config.channels * mult
                if 2**level in config.attention:
                    stage.append(self._attention(width))
                self.input_blocks.append(stage)
                skips.append(width)
            if level != last:
                down = self._res_block(width, width, "down") if config.resblock_updown else Downsample(width)
                self.input_blocks.append(UNetStage(down))
                skips.append(width)
        return width, skips

    def _add_outputs(self, width: int, skips: list[int]) -> int:
        """Make the way up from `width`, with the `skips`; its width at the end."""
        config = self.config
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for repeat in range(config.res_blocks + 1):
                stage = UNetStage(self._res_block(width + skips.pop(), config.channels * mult))
                width = config.channels * mult
                if 2**level in config.attention:
                    stage.append(self._attention(width))
                if level and repeat == config.res_blocks:
                    stage.append(self._res_block(width, width, "up") if config.resblock_updown else Upsample(width))
                self.output_blocks.append(stage)
        return width

    def recompute_blocks(self) -> list[nn.Module]:
        """The blocks that a trainer may let run again in the backward pass."""
        return [*self.input_blocks, self.middle_block, *self.output_blocks]

    def reusable_spans(self) -> list[BlockSpan]:
        """The blocks between the first i + 1 and the last i + 1, from i = 0 to the middle alone."""
        down, up = list(self.input_blocks), list(self.output_blocks)
        return [BlockSpan([*down[i + 1 :], self.middle_block, *up[: -i - 1]]) for i in range(len(down))]

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B,C,h,w), noise_level (B,) of the schedule -> (B,C,h,w).

        Raises ValueError where `cond` lacks a part the network was built for or brings one it was not, and
        where h or w is not divisible by the lowest level's factor.
        """
        self._require(x, cond)
        emb = self.time_embed(timestep_embedding(noise_level, self.config.channels).to(self._dtype))
        if cond.vector is not None:
            emb = emb + self.label_emb(cond.vector.to(self._dtype))
        h = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
        given = h = h.to(self._dtype)
        context = None if cond.crossattn is None else cond.crossattn.to(self._dtype)
        mask = None if context is None else joint_mask(cond.crossattn_mask, context.shape[1])

        skips: list[Tensor] = []
        for index, stage in enumerate(self.input_blocks):
            h = stage(h, emb, context, mask, self._given(cond, f"input_blocks.{index}"))
            h = self._residual(h, cond, f"in.{index}")
            skips.append(h)
        h = self.middle_block(h, emb, context, mask, self._given(cond, "middle_block"))
        h = self._residual(h, cond, "mid")
        for index, stage in enumerate(self.output_blocks):
            skip = self._residual(skips.pop(), cond, f"skip.{len(skips)}")
            kept = self._given(cond, f"output_blocks.{index}")
            h = stage(torch.cat([h, skip], dim=1), emb, context, mask, kept)
        return self.out(h) + self.input_skip(given, emb) if self.config.input_skip else self.out(h)

    def prepare(self, cond: Cond) -> Cond:
        """`cond` with the keys and values of its tokens in `extras`, which are the same at every step of a run."""
        if cond.crossattn is None or not self.cond_spec.crossattn:
            return cond
        context, extras = cond.crossattn.to(self._dtype), dict(cond.extras)
        for address, layer in self.named_modules():
            if isinstance(layer, SpatialTransformer):
                for i, pair in enumerate(layer.keys_values(context)):
                    extras[_KEYS.format(address.rpartition(".")[0], i)] = pair[0]
                    extras[_VALUES.format(address.rpartition(".")[0], i)] = pair[1]
        return cond._replace(extras=extras)

    def addresses(self) -> dict[str, WeightSlice]:
        """The attentions' weights by their addresses: each layer by its own, and ``to_q``, ``to_k`` and ``to_v`` of a
        fused block as those rows of its ``qkv``."""
        found: dict[str, WeightSlice] = {}
        for address, module in self.named_modules():
            if isinstance(module, AttentionBlock):
                for name, rows in module.rows().items():
                    found[f"{address}.{name}"] = WeightSlice(f"{address}.qkv.weight", rows)
                found[f"{address}.proj_out"] = WeightSlice(f"{address}.proj_out.weight")
            elif isinstance(module, SpatialTransformer):
                for name, layer in module.named_modules():
                    if isinstance(layer, nn.Linear | nn.Conv2d):
                        found[f"{address}.{name}"] = WeightSlice(f"{address}.{name}.weight")
        return found

    @staticmethod
    def _given(cond: Cond, stage: str) -> list[KeysValues] | None:
        """Result of :meth:`prepare` for the stage at this address."""
        found: list[KeysValues] = []
        while (keys := cond.extras.get(_KEYS.format(stage, len(found)))) is not None:
            found.append((keys, cond.extras[_VALUES.format(stage, len(found))]))
        return found or None

    @property
    def _dtype(self) -> torch.dtype:
        return cast(nn.Linear, self.time_embed[0]).weight.dtype

    @staticmethod
    def _residual(h: Tensor, cond: Cond, site: str) -> Tensor:
        added = cond.residuals.get(site)
        return h if added is None else h + added.to(h.dtype)

    def _require(self, x: Tensor, cond: Cond) -> None:
        spec = self.cond_spec
        for name, width, part, axis in (
            ("crossattn", spec.crossattn, cond.crossattn, -1),
            ("vector", spec.vector, cond.vector, 1),
            ("concat", spec.concat, cond.concat, 1),
        ):
            seen = 0 if part is None else part.shape[axis]
            if seen != width:
                raise ValueError(f"the U-Net was built for {name} conditioning of width {width} and got {seen}")
        if unknown := set(cond.residuals) - set(self.config.sites):
            raise ValueError(f"the U-Net has no residual site '{min(unknown)}'; it has {', '.join(self.config.sites)}")
        for length in x.shape[2:]:
            if length % self.config.factor:
                raise ValueError(f"latent size {length} is not divisible by the U-Net's factor {self.config.factor}")

    def _res_block(self, width: int, out_width: int, resample: str = "none") -> ResBlock:
        return ResBlock(
            width,
            4 * self.config.channels,
            out_channels=out_width,
            dropout=self.config.dropout,
            norm_groups=self.config.norm_groups,
            scale_shift_norm=self.config.scale_shift_norm,
            resample=resample,  # type: ignore[arg-type]
        )

    def _attention(self, width: int) -> nn.Module:
        config = self.config
        if not self.cond_spec.crossattn:
            return AttentionBlock(
                width,
                config.heads_at(width),
                norm_groups=config.norm_groups,
                new_attention_order=config.new_attention_order,
            )
        return SpatialTransformer(
            width,
            config.heads_at(width),
            context_dim=self.cond_spec.crossattn,
            depth=config.transformer_depth,
            dropout=config.dropout,
            norm_groups=config.norm_groups,
            linear_projection=config.linear_projection,
        )


def _embedding(width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))
