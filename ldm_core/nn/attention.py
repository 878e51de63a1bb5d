"""Attention blocks: multi-head cross-attention, the spatial transformer, and the fused self-attention block.

Shapes: B batch, N = h·w positions (row-major), L context tokens, C channels. Every projection is a child module, called
as one, so that adapters can reach it by its address.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from ldm_core.nn.hooks import on_grid
from ldm_core.nn.norms import group_norm, zero_init
from ldm_core.nn.tiles.pieces import Made, Map, Pieces

KeysValues: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values of a context, each (B,heads,L,d)."""
_PLAIN = 1 << 25
"""Attention weights up to this number are computed as one matrix by a CPU in bfloat16, and kept for the way back, 64
MiB a layer. 25 and 34 million take 0.50 to 0.63 of the time of the fused kernel in float32, which keeps none."""
_PLAIN_FORWARD = 1 << 22
"""The same without gradients: there the fused kernel has no slow way back, and wins earlier."""
_PIECE = 1 << 20
"""Attention weights in bfloat16 at a time, beyond that number, as many as lie in a core's own cache."""
_LOW = 64.0
"""The largest score of a head, in powers of two, whose exponentials may be summed without taking the largest away."""
_WIDE, _SHORT = 128, 1 << 20
"""The least numbers of a head, and the most weights of a head, for products of matrices to be faster on a CPU in
float32 (measured with tests/benchmarks/bench_attention.py, backward included): the autoencoders' single heads."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of (B,heads,N,d) on (B,heads,L,d), scale d ** -0.5; in and out of one dtype.

    `mask`, broadcastable to (B,heads,N,L), bool: True = attend.
    """
    if q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
        # The CPU's fused kernel takes five to ten times as long backwards in these as in float32.
        with torch.autocast("cpu", enabled=False):
            limit = _PLAIN if torch.is_grad_enabled() else _PLAIN_FORWARD
            if q.dtype == torch.bfloat16 and q[..., 0].numel() * k.shape[2] <= limit:
                return _attend_plainly(q, k, v, mask)
            if q.dtype == torch.bfloat16 and _in_pieces_here(mask):
                return _attend_in_pieces(q, k, v)
            return _attend_fused(q, k, v, mask, torch.float32).to(q.dtype)
    apart = q.stride(-1) != 1
    if q.device.type == "cpu" and apart and q.shape[-1] >= _WIDE and q.shape[2] * k.shape[2] <= _SHORT:
        return _attend_plainly(q, k, v, mask)
    return _attend_fused(q, k, v, mask, q.dtype)


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same by torch's kernels, computed in `dtype`. The fused ones, on CPUs and GPUs, want the numbers of a head
    side by side: if they lie apart, torch multiplies whole matrices, up to four times as slow on a CPU, and a copy
    takes next to nothing."""
    q, k, v = (each.to(dtype) for each in (q, k, v))
    q, k, v = (each if each.stride(-1) == 1 else each.contiguous() for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two products of matrices: on a CPU, in bfloat16 if the weights fit its caches, about half the time of
    the fused kernel in float32."""
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.matmul(scores.softmax(-1), v)


def _in_pieces_here(mask: Tensor | None) -> bool:
    """True where pieces are the faster way: forward alone, and not in code for any number of them."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return mask is None and not torch.is_grad_enabled() and not traced


def _attend_in_pieces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same of a few heads of one example at a time, or of some of a head's queries: all within the cache of a core,
    in memory that is used again. exp(s) is 2 ** (s / log 2), and its sum is divided out at the end; torch's softmax
    takes a half longer."""
    (batch, heads, queries, width), length = q.shape, k.shape[2]
    q, most = q * (width**-0.5 * math.log2(math.e)), max(1, _PIECE // length)
    several, some = max(1, min(heads, most // queries)), min(queries, most)
    low = _highest_scores(q, k) <= _LOW
    made = q.new_empty((batch, queries, heads, width)).transpose(1, 2)
    room = q.new_empty((several, some, length))
    for example, head, query in product(range(batch), range(0, heads, several), range(0, queries, some)):
        which = slice(head, head + several)
        part, keys, values = q[example, which, query : query + some], k[example, which], v[example, which]
        scores = torch.bmm(part, keys.transpose(1, 2), out=room[: part.shape[0], : part.shape[1]])
        if not low[example, which].all():
            scores -= scores.amax(-1, keepdim=True)
        total = scores.exp2_().sum(-1, keepdim=True)
        torch.div(torch.bmm(scores, values), total, out=made[example, which, query : query + some])
    return made


def _highest_scores(q: Tensor, k: Tensor) -> Tensor:
    """A bound (B,heads) of |q·k| over all pairs of an example's head."""
    most = [each.float().square().sum(-1).amax(-1) for each in (q, k)]
    return (most[0] * most[1]).sqrt()


class CrossAttention(nn.Module):
    """Multi-head attention of (B,N,C) on a context (B,L,context_dim), or on its own input without one.

    `mask` (B,L) bool: True positions are attended to; None attends to all. Scale is head_dim ** -0.5.
    """

    def __init__(self, channels: int, num_heads: int, *, context_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        context_dim = channels if context_dim is None else context_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(dropout))

    def keys_values(self, context: Tensor) -> KeysValues:
        """Keys and values of a context (B,L,context_dim): two of (B,heads,L,C/heads)."""
        return self._by_head(self.to_k(context)), self._by_head(self.to_v(context))

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        given: KeysValues | None = None,
    ) -> Tensor:
        """`given`: the context's keys and values, if they are known already."""
        k, v = self.keys_values(x if context is None else context) if given is None else given
        out = attend(self._by_head(self.to_q(x)), k, v, None if mask is None else mask[:, None, None, :])
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B,N,C)

    def _by_head(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B,heads,N or L,C/heads)


class GEGLU(nn.Module):
    """A linear layer with its second half as the gate of the first: value · GELU(gate), GELU exact."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, dropout, and back."""

    def __init__(self, channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Dropout(dropout), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention on the context, feed-forward; each added to (B,N,C)."""

    def __init__(self, channels: int, num_heads: int, *, context_dim: int | None, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn1 = CrossAttention(channels, num_heads, dropout=dropout)
        self.ff = FeedForward(channels, dropout=dropout)
        self.attn2 = CrossAttention(channels, num_heads, context_dim=context_dim, dropout=dropout)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        given: KeysValues | None = None,
    ) -> Tensor:
        """`given`: the context's keys and values for the cross-attention, if they are known already."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context, mask, given)
        return x + self.ff(self.norm3(x))


class _Turned(torch.autograd.Function):
    """(B,M,N) -> (B,N,M) in memory of its own, and its gradient back to (B,M,N) in memory of its own."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient.transpose(1, 2).contiguous()


def _turned(x: Tensor) -> Tensor:
    """Return :class:`_Turned` of x, without a record of it if there are no gradients."""
    return cast(Tensor, _Turned.apply(x)) if torch.is_grad_enabled() else x.transpose(1, 2).contiguous()


def _view(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def _by_token_here(h: Tensor, linear: bool) -> bool:
    """True for maps (B,C,h,w) with transformers faster by token, both ways, without a change of a single bit: channels
    first, in float32 on a CPU, between convolutions. `linear` projections would sum in another order, and so would
    gradients of one example alone, not copied by torch."""
    plain = h.device.type == "cpu" and h.dtype is torch.float32 and not linear and h.is_contiguous()
    return plain and (not torch.is_grad_enabled() or len(h) > 1)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a map (B,C,h,w), conditioned on a context (B,L,context_dim).

    The input projection is a 1×1 convolution, or with `linear_projection` a linear layer (later published
    U-Nets); the output projection starts at zero, so a fresh block is the identity.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        context_dim: int | None,
        depth: int = 1,
        dropout: float = 0.0,
        norm_groups: int = 32,
        linear_projection: bool = False,
    ) -> None:
        super().__init__()
        self.linear_projection = linear_projection
        self.norm = group_norm(channels, norm_groups, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads, context_dim=context_dim, dropout=dropout) for _ in range(depth)
        )
        self.proj_out = zero_init(
            nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        )

    def keys_values(self, context: Tensor) -> list[KeysValues]:
        """Keys and values of a context (B,L,context_dim) for each block: they do not change with x."""
        blocks = cast(Iterable[TransformerBlock], self.transformer_blocks)
        return [block.attn2.keys_values(context) for block in blocks]

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        given: Sequence[KeysValues] | None = None,
    ) -> Tensor:
        """`given`: :meth:`keys_values` of the context, if they are known already."""
        size = x.shape[2:]
        h = self.norm(x)
        if not self.linear_projection:
            h = self.proj_in(h)
        turned = _turned if _by_token_here(h, self.linear_projection) else _view
        h = turned(h.flatten(2))  # (B,N,C)
        if h.dtype is not torch.float32:
            h = h.contiguous()  # by token once: of a map channels first, each norm and sum would read columns
        with on_grid(self, size):
            if self.linear_projection:
                h = self.proj_in(h)
            for index, block in enumerate(self.transformer_blocks):
                h = block(h, context, mask, None if given is None else given[index])
        if self.linear_projection:
            h = self.proj_out(h)
        h = turned(h).unflatten(2, size)  # (B,C,h,w); if it is a view, laid out channels last
        # x first: the sum takes the memory format of its first operand, and the network's is x's.
        return x + (h if self.linear_projection else self.proj_out(h))


_ROLES = ("to_q", "to_k", "to_v")


def qkv_attention_by_head(qkv: Tensor, num_heads: int) -> Tensor:
    """Self-attention of a fused (B,3C,N) with channels in the order [head][q|k|v][dim]; returns (B,C,N).

    The order of every published latent diffusion U-Net ("legacy" there).
    """
    q, k, v = qkv.unflatten(1, (num_heads, 3, -1)).transpose(-1, -2).unbind(2)  # each (B,heads,N,dim)
    return attend(q, k, v).transpose(-1, -2).flatten(1, 2)


def qkv_attention_by_role(qkv: Tensor, num_heads: int) -> Tensor:
    """Self-attention of a fused (B,3C,N) with channels in the order [q|k|v][head][dim]; returns (B,C,N)."""
    q, k, v = qkv.unflatten(1, (3, num_heads, -1)).transpose(-1, -2).unbind(1)
    return attend(q, k, v).transpose(-1, -2).flatten(1, 2)


class AttentionBlock(nn.Module):
    """Self-attention over the positions of a feature map (B,C,h,w), for U-Nets without a context.

    `new_attention_order` reads the fused projection as [q|k|v][head][dim] instead of [head][q|k|v][dim].
    """

    def __init__(
        self, channels: int, num_heads: int, *, norm_groups: int = 32, new_attention_order: bool = False
    ) -> None:
        super().__init__()
        self.num_heads, self._by_role = num_heads, new_attention_order
        self.attention = qkv_attention_by_role if new_attention_order else qkv_attention_by_head
        self.norm = group_norm(channels, norm_groups, eps=1e-5)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_init(nn.Conv1d(channels, channels, 1))

    def rows(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """The rows of queries, keys and values in the fused projection: half-open ranges, in the heads' order."""
        channels, heads = self.proj_out.in_channels, self.num_heads
        width = channels // heads
        if self._by_role:
            return {name: ((i * channels, (i + 1) * channels),) for i, name in enumerate(_ROLES)}
        return {
            name: tuple(((3 * head + i) * width, (3 * head + i + 1) * width) for head in range(heads))
            for i, name in enumerate(_ROLES)
        }

    def forward(self, x: Tensor) -> Tensor:
        with on_grid(self, x.shape[2:]):
            h = self.attention(self.qkv(self.norm(x).flatten(2)), self.num_heads)
        return x + self.proj_out(h).unflatten(2, x.shape[2:])


class SpatialSelfAttention(nn.Module):
    """The autoencoders' attention: one head over all positions of (B,C,h,w), 1×1 projections, residual."""

    def __init__(self, channels: int, *, norm_groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(channels, norm_groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (_positions(projected) for projected in (self.q(h), self.k(h), self.v(h)))
        out = attend(q, k, v).squeeze(1)
        return x + self.proj_out(out.transpose(1, 2).unflatten(2, x.shape[2:]))

    def over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`forward` of a map in pieces: keys and values are kept, and queries are asked a few at a time."""
        norm = pieces.normed(self.norm, x)
        batch, channels, height, width = x.shape
        found: list[Tensor] = []
        done = 0
        for at in pieces.windows(x):
            h = norm(x.window(at))
            parts = [_positions(project(h)) for project in (self.k, self.v)]
            if not found:
                found = [part.new_empty((batch, 1, height * width, channels)) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[:, :, done : done + part.shape[2]] = part
            done += parts[0].shape[2]
        k, v = found
        count = pieces.queries(batch * height * width)

        def make(x: Tensor) -> Tensor:
            q = _positions(self.q(norm(x)))
            out = torch.cat([attend(some, k, v) for some in q.split(count, 2)], 2).squeeze(1)
            return x + self.proj_out(out.transpose(1, 2).unflatten(2, x.shape[2:]))

        return pieces.held(Made([x], make, channels))  # however large: nothing costs as much to make anew


def _positions(x: Tensor) -> Tensor:
    """A map (B,C,h,w) as one head over its positions, (B,1,N,C)."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1)


def joint_mask(mask: Tensor | None, tokens: int) -> Tensor | None:
    """Check a (B,L) mask against the number of context tokens; ValueError naming both numbers when they
    differ."""
    if mask is not None and mask.shape[1] != tokens:
        raise ValueError(f"crossattn_mask has {mask.shape[1]} positions for {tokens} crossattn tokens")
    return None if mask is None else mask.to(torch.bool)
