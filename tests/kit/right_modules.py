"""Right parts with weights, small: a first stage, a conditioner and a denoiser, for mistakes to be planted in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Accepts, Conditioner, CondSpec, FirstStage, LatentSpec, Reconstruction, Site, Tokens
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.testing.toys import ToyDenoiser


@attrs.frozen(kw_only=True)
class StageConfig:
    channels: int = 3

    @property
    def latent(self) -> LatentSpec:
        return LatentSpec(self.channels, (4, 4))


class Stage(FirstStage, nn.Module):
    """A linear KL stage of factor 4: one convolution each way."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__()
        self.latent = config.latent
        self.encoder = nn.Conv2d(site.channels, 2 * config.channels, 4, stride=4)
        self.decoder = nn.ConvTranspose2d(config.channels, site.channels, 4, stride=4)
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))

    def encode_moments(self, x: Tensor) -> Tensor:
        self.latent.shape(x.shape[2:])
        return self.encoder(x)

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        mean, logvar = moments.chunk(2, 1)
        if streams is not None:
            mean = mean + (0.5 * logvar).exp() * self.noise(streams, mean)
        return (mean - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return streams.normal(like.shape)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1))

    def project(self, z: Tensor) -> Tensor:
        return z

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        self.mean.copy_(mean)
        self.std.copy_(std)

    nll_reduction = "sum"
    regularization_weight: Any = 1e-6

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.weight

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        mean, logvar = self.encode_moments(x).chunk(2, 1)
        raw = mean if streams is None else mean + (0.5 * logvar).exp() * self.noise(streams, mean)
        return Reconstruction(self.decoder(raw), self.penalty(mean, logvar), self.logs(mean))

    def penalty(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return (mean.square() + logvar.exp() - 1 - logvar).mean()

    def logs(self, mean: Tensor) -> Mapping[str, Tensor]:
        return {"mean": mean.detach().mean(), "channels": mean.detach().mean((0, 2, 3))}

    def diagnostics(self, logs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"channel_max": logs["channels"].max()}


class Codes(nn.Module):
    """A table of codes, alone."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(count, width))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.movedim(1, -1)
        index = (flat[..., None, :] - self.table).square().sum(-1).argmin(-1)
        return self.table[index].movedim(-1, 1), index


class CodeStage(Stage):
    """A stage with a codebook of 7: latents go to the nearest code, gradients straight through."""

    nll_reduction = "mean"
    regularization_weight = 1.0
    quantizing = True

    def __init__(self, config: StageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.encoder = nn.Conv2d(site.channels, config.channels, 4, stride=4)
        self.quantize = Codes(7, config.channels)

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        return (moments - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        raw = z * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)
        return self.decoder(raw + (self.quantize(raw)[0] - raw).detach())

    def project(self, z: Tensor) -> Tensor:
        return self.latents(self.quantize(z * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1))[0])

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        raw = self.encode_moments(x)
        if not self.quantizing:
            return Reconstruction(self.decoder(raw), raw.new_zeros(()))
        codes, index = self.quantize(raw)
        loss = (codes - raw.detach()).square().mean() + (codes.detach() - raw).square().mean()
        return Reconstruction(self.decoder(raw + (codes - raw).detach()), loss, self.counted(index))

    def counted(self, index: Tensor) -> Mapping[str, Tensor]:
        return {"codebook_counts": torch.bincount(index.flatten(), minlength=len(self.quantize.table))}

    codebook_size = 7

    def indices(self, moments: Tensor) -> Tensor:
        return self.quantize(moments)[1]

    def diagnostics(self, logs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"codebook_used": (logs["codebook_counts"] > 0).float().mean()}

    def init_codebook(self, latents: Tensor, *, seed: int) -> None:
        self.quantize.table.copy_(self.picked(latents, len(self.quantize.table), seed))

    def revive(self, latents: Tensor, dead: Tensor, *, seed: int) -> int:
        self.quantize.table[dead] = self.picked(latents, int(dead.sum()), seed)
        return int(dead.sum())

    def picked(self, latents: Tensor, count: int, seed: int) -> Tensor:
        points = latents if latents.dim() == 2 else latents.movedim(1, -1).flatten(0, -2)
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
        return points[order[:count]]


@attrs.frozen(kw_only=True)
class WordsConfig:
    width: int = 6

    @property
    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        return CondSpec(crossattn=self.width)


class Words(Conditioner, nn.Module):
    """Bags of letters: a token a word, padded to the batch's longest and masked; it learns how long words may be."""

    longest: Tensor

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.spec, self.reads = config.spec(site.latent), config.reads
        self.table = nn.Embedding(26, config.width)
        self.empty = nn.Parameter(torch.randn(config.width))
        self.register_buffer("longest", torch.zeros((), dtype=torch.int64))

    def fit(self, examples: Iterable[Mapping[str, Any]]) -> None:
        self.longest.fill_(max(len(word) for e in examples for word in e["caption"].split()))

    def encode(self, batch: Mapping[str, Any]) -> Cond:
        words = [[w[: int(self.longest)] for w in text.split()] for text in batch["caption"]]
        length = max(map(len, words))
        device = self.empty.device
        rows, mask = [], torch.zeros(len(words), length, dtype=torch.bool, device=device)
        for i, row in enumerate(words):
            codes = [torch.tensor([(ord(c) - 97) % 26 for c in w], device=device) for w in row]
            vectors = [self.table(each).mean(0) for each in codes]
            rows.append(F.pad(torch.stack(vectors), (0, 0, 0, length - len(row))))
            mask[i, : len(row)] = True
        return Cond(crossattn=torch.stack(rows), crossattn_mask=mask)

    def null(self, like: Cond) -> Cond:
        assert like.crossattn is not None and like.crossattn_mask is not None
        tokens = self.empty.to(like.crossattn.dtype).expand(like.crossattn.shape)
        first = torch.zeros_like(like.crossattn_mask)
        first[:, 0] = True  # one token, however long the batch's longest caption
        return like._replace(crossattn=tokens, crossattn_mask=first)


@attrs.frozen(kw_only=True)
class NoisyConfig:
    draws: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        return CondSpec(vector=3, tokens={"letters": 4}, crossattn=2, join="width", pad_to=5)


class Noisy(Conditioner, nn.Module):
    """Letters of the caption as a named set of tokens and as tokens that join by width, and their mean with noise."""

    def __init__(self, config: NoisyConfig, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.spec, self.reads = config.spec(site.latent), config.reads
        self.table = nn.Embedding(128, 4)
        self.narrow, self.mean = nn.Linear(4, 2), nn.Linear(4, 3)

    def encode(self, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        codes = [text.encode()[:24] for text in batch["caption"]]
        longest = max(map(len, codes))
        device = self.table.weight.device
        ids = torch.tensor([[*code, *[0] * (longest - len(code))] for code in codes], device=device)
        mask = torch.tensor([[i < len(code) for i in range(longest)] for code in codes], device=device)
        letters = self.table(ids)
        mean = self.mean((letters * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        noise = torch.zeros_like(mean) if streams is None else self.noise(streams, mean)
        return Cond(
            crossattn=self.narrow(letters),
            crossattn_mask=mask,
            vector=mean + noise,
            tokens={"letters": Tokens(letters, mask)},
        )

    def noise(self, streams: Streams, like: Tensor) -> Tensor:
        return streams.normal(like.shape).to(like)

    def null(self, like: Cond) -> Cond:
        return like.map(lambda v: torch.zeros_like(v) if v.is_floating_point() else v)


@attrs.frozen(kw_only=True)
class NetConfig:
    @property
    def accepts(self) -> Accepts:
        return Accepts(residuals=False)


class Net(ToyDenoiser):
    def __init__(self, config: NetConfig, site: Site) -> None:
        assert site.latent is not None
        super().__init__(site.latent, site.cond)
