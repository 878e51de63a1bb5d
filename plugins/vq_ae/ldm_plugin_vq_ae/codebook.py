"""The codebook: nearest codes, its loss, its initialisation from data, its use and the revival of dead
codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Distances held at once, whatever the batch and the codebook: 64 MiB of float32 on an accelerator; on a CPU
# what its cache holds, which is three times as fast.
_DISTANCES = {"cpu": 2**18}
_DISTANCES_ELSEWHERE = 2**24
_POINTS_A_CODE = 64  # more latents than this per code add nothing to the initial codes
_NOISE = 0.01  # of the latents' std, added to codes that are picked from them, so that no two are equal


class Codebook(nn.Module):
    """`size` codes of `dim` numbers; takes latents (B,dim,*s), float32 inside whatever the autocast.

    `legacy_beta`: beta weighs the codes' term and the encoder's commitment has weight 1, as in the training of all
    published models; otherwise the other way round. The loss has the same value, its gradients differ.
    """

    def __init__(self, size: int, dim: int, *, beta: float = 0.25, legacy_beta: bool = True) -> None:
        super().__init__()
        self.beta, self.legacy_beta = beta, legacy_beta
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / size, 1.0 / size)

    @property
    def size(self) -> int:
        """Number of codes."""
        return self.embedding.num_embeddings

    def indices(self, latents: Tensor) -> Tensor:
        """The nearest code of each latent: (B,dim,*s) -> (B,*s) int64."""
        return self._nearest(_flat(latents)).view(latents.shape[0], *latents.shape[2:])

    def codes(self, indices: Tensor) -> Tensor:
        """Codes by index: (B,*s) -> (B,dim,*s) float32."""
        codes = F.embedding(indices, self.embedding.weight).float()
        return codes.movedim(codes.dim() - 1, 1)  # torch's exporter by tracing knows no negative place

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B,dim,*s) -> their codes with the gradient passed straight through, loss (), indices
        (B,*s)."""
        latents = latents.float()
        indices = self.indices(latents)
        codes = self.codes(indices)
        commitment = F.mse_loss(latents, codes.detach())
        codebook = F.mse_loss(codes, latents.detach())
        loss = commitment + self.beta * codebook if self.legacy_beta else self.beta * commitment + codebook
        return latents + (codes - latents).detach(), loss, indices

    def usage(self, indices: Tensor) -> Tensor:
        """Counts of each code among `indices` of any shape: (size,) int64."""
        return torch.bincount(indices.flatten(), minlength=self.size)

    @torch.no_grad()
    def init_from(self, latents: Tensor, *, seed: int, iterations: int = 10) -> None:
        """Set the codes to the centres of raw latents (B,dim,*s) or (N,dim): random picks, then k-means.

        With fewer latents than codes, picks repeat, each with a little noise. ValueError without latents or if any is
        not finite.
        """
        points, generator = self._points(latents), torch.Generator().manual_seed(seed)
        order = torch.randperm(len(points), generator=generator)[: _POINTS_A_CODE * self.size]
        points = points[order.to(points.device)]
        centres = self._picks(points, self.size, generator)
        if len(points) > self.size:
            for _ in range(iterations):
                nearest = self._nearest(points, centres)
                counts = torch.bincount(nearest, minlength=self.size)
                sums = torch.zeros_like(centres).index_add_(0, nearest, points)
                centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        self.embedding.weight.copy_(centres)

    @torch.no_grad()
    def revive(self, latents: Tensor, dead: Tensor, *, seed: int) -> int:
        """Move the codes `dead` (size,) bool onto raw latents drawn at random; returns their number."""
        points = self._points(latents)
        chosen = dead.to(self.embedding.weight.device)
        count = int(chosen.sum())
        if count:
            picks = self._picks(points, count, torch.Generator().manual_seed(seed))
            self.embedding.weight[chosen] = picks.to(self.embedding.weight)
        return count

    def _points(self, latents: Tensor) -> Tensor:
        points = latents.float() if latents.dim() == 2 else _flat(latents)
        if not len(points) or not bool(torch.isfinite(points).all()):
            raise ValueError(f"the codebook needs finite latents to start from; got {tuple(latents.shape)}")
        return points

    @staticmethod
    def _picks(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
        turns = [torch.randperm(len(points), generator=generator) for _ in range(-(-count // len(points)))]
        picks = points[torch.cat(turns)[:count].to(points.device)]
        noise = torch.randn(picks.shape, generator=generator).to(picks)
        return picks + _NOISE * points.std(dim=0, unbiased=False) * noise

    @torch.no_grad()
    def _nearest(self, points: Tensor, codes: Tensor | None = None) -> Tensor:
        """The code nearest to each of `points` (N,dim), in blocks: (N,)."""
        with torch.autocast(points.device.type, enabled=False):
            codes = (self.embedding.weight if codes is None else codes).float()
            # Around the codes' centre: latents far from 0 would lose to cancellation the digits that tell codes apart,
            # and the same batch on another number of processes would find others.
            centre = codes.mean(dim=0)
            codes = codes - centre
            squares = codes.square().sum(dim=1)
            # |p|² is the same for every code of a point, so it is left out.
            held = _DISTANCES.get(points.device.type, _DISTANCES_ELSEWHERE)
            points = points.float()
            # A trace would keep the number of blocks: there all points are one.
            traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
            blocks = [points] if traced else points.split(max(1, held // len(codes)))
            found = [torch.addmm(squares, block - centre, codes.T, alpha=-2.0).argmin(dim=1) for block in blocks]
            return torch.cat(found)


def perplexity(counts: Tensor) -> Tensor:
    """The effective number of codes in use: exp of the entropy of `counts` (size,); a scalar."""
    share = counts.float() / counts.sum().clamp(min=1)
    return torch.exp(-torch.xlogy(share, share).sum())


def _flat(latents: Tensor) -> Tensor:
    return latents.float().movedim(1, -1).reshape(-1, latents.shape[1])  # (B,dim,*s) -> (N,dim)
