"""Each attention of the networks takes the kernel that is faster for it, forward and backward, and computes what it
says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ldm_core.nn import attention
from ldm_core.nn.attention import AttentionBlock, CrossAttention, SpatialSelfAttention, SpatialTransformer

FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
BACKWARD = FORWARD + "_backward"


class Operators(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def plain(self) -> list[str]:
        """Those of attention by products of whole matrices."""
        return [name for name in self.names if name in ("bmm", "baddbmm", "_softmax") or "math" in name]


def _block(new_order: bool, last: bool = False) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    def make() -> tuple[nn.Module, tuple[Tensor, ...]]:
        x = torch.randn(2, 32, 8, 8)
        x = x.to(memory_format=torch.channels_last) if last else x
        return AttentionBlock(32, 4, norm_groups=8, new_attention_order=new_order), (x,)

    return make


def _cross(*inputs: Tensor) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    return lambda: (CrossAttention(32, 4, context_dim=24 if len(inputs) > 1 else None), inputs)


def _transformer(linear: bool) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    module = SpatialTransformer(32, 4, context_dim=24, depth=2, norm_groups=8, linear_projection=linear)
    return lambda: (module, (torch.randn(2, 32, 8, 8), torch.randn(2, 7, 24)))


X, CONTEXT, MASK = torch.randn(2, 64, 32), torch.randn(2, 7, 24), torch.arange(7).expand(2, 7) < 5
MODULES = {
    "block by head": (_block(False), 1),
    "block by role": (_block(True), 1),
    "block, channels last": (_block(False, last=True), 1),
    "autoencoder": (lambda: (SpatialSelfAttention(32, norm_groups=8), (torch.randn(2, 32, 8, 8),)), 1),
    "autoencoder, channels last": (
        lambda: (
            SpatialSelfAttention(32, norm_groups=8),
            (torch.randn(2, 32, 8, 8).to(memory_format=torch.channels_last),),
        ),
        1,
    ),
    "self": (_cross(X), 1),
    "cross": (_cross(X, CONTEXT), 1),
    "cross with a mask": (_cross(X, CONTEXT, MASK), 1),
    "transformer": (_transformer(False), 4),
    "transformer, linear": (_transformer(True), 4),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_fused_kernel_is_taken(name: str) -> None:
    make, count = MODULES[name]
    module, inputs = make()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.no_grad(), Operators() as ran:
        module(*inputs)
    assert ran.names.count(FORWARD) == count and not ran.plain
    with Operators() as ran:
        module(inputs[0].clone().requires_grad_(), *inputs[1:]).sum().backward()
    assert ran.names.count(FORWARD) == count == ran.names.count(BACKWARD) and not ran.plain


def test_wide_heads_take_products_of_matrices_until_there_are_many_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = SpatialSelfAttention(128, norm_groups=8), torch.randn(1, 128, 4, 4)
    with Operators() as few:
        module(x.clone().requires_grad_()).sum().backward()
    assert few.names.count("bmm") == 6 and FORWARD not in few.names
    monkeypatch.setattr(attention, "_SHORT", 16 * 16 - 1)
    with Operators() as many:
        module(x.clone().requires_grad_()).sum().backward()
    assert many.names.count(FORWARD) == 1 == many.names.count(BACKWARD) and not many.plain


def test_large_attention_in_bfloat16_takes_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_PLAIN", 0)  # as if it were large
    monkeypatch.setattr(attention, "_PLAIN_FORWARD", 0)
    module, inputs = AttentionBlock(32, 4, norm_groups=8).bfloat16(), torch.randn(2, 32, 8, 8).bfloat16()
    with Operators() as ran:
        module(inputs.requires_grad_()).sum().backward()
    assert FORWARD in ran.names and BACKWARD in ran.names and not ran.plain


@pytest.mark.parametrize(("piece", "products"), [(1 << 20, 4), (300, 12), (40, 72)])
def test_large_attention_in_bfloat16_without_gradients_is_made_in_pieces(
    monkeypatch: pytest.MonkeyPatch, piece: int, products: int
) -> None:
    """Of an example's heads, of one head, of two queries: the same numbers by so many products of matrices; a mask and
    gradients take the fused kernel."""
    monkeypatch.setattr(attention, "_PLAIN", 0)
    monkeypatch.setattr(attention, "_PLAIN_FORWARD", 0)
    monkeypatch.setattr(attention, "_PIECE", piece)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, 8, generator=generator).bfloat16() for tokens in (12, 20, 20))
    with torch.no_grad(), Operators() as ran:
        found = attention.attend(q, k, v)
    exact = torch.einsum("bhnd,bhld->bhnl", q.double(), k.double()).mul(8**-0.5).softmax(-1) @ v.double()
    assert float((found.double() - exact).norm() / exact.norm()) < 0.01
    assert ran.names.count("bmm") == products and FORWARD not in ran.names
    with torch.no_grad(), Operators() as masked:
        attention.attend(q, k, v, torch.ones(2, 1, 1, 20, dtype=torch.bool))
    with Operators() as trained:
        attention.attend(q.requires_grad_(), k, v)
    assert FORWARD in masked.names and FORWARD in trained.names


@pytest.mark.parametrize("size", [1.0, 8.0, 100.0])
def test_pieces_bear_scores_of_any_size(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """Beyond the range of exponentials too, and an example's numbers are the same bits beside any other."""
    monkeypatch.setattr(attention, "_PLAIN_FORWARD", 0)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, 8, generator=generator).bfloat16() for tokens in (12, 20, 20))
    q[1] *= size
    with torch.no_grad(), Operators() as ran:
        found = attention.attend(q, k, v)
        alone = torch.cat([attention.attend(*(each[i : i + 1] for each in (q, k, v))) for i in range(2)])
    high = attention._highest_scores(q * (8**-0.5 * 1.4426950408889634), k) > 64.0
    assert ran.names.count("amax") > 0 and not high[0].any() and bool(high[1].any()) == (size > 1)
    assert torch.equal(found, alone)
    scores = torch.einsum("bhnd,bhld->bhnl", q.double(), k.double()).mul(8**-0.5)
    exact = scores.softmax(-1) @ v.double()
    lost = 2**-8 * max(1.0, float(scores.abs().max()))  # as each score is rounded
    assert float((found.double() - exact).abs().max()) <= 4 * lost * float(v.abs().max())
    broken = q.clone()
    broken[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        seen = attention.attend(broken, k, v).isnan()
    assert bool(seen[0, 0, 0].all()) and int(seen.sum()) == 8


@pytest.mark.parametrize("width", [16, 144])
@pytest.mark.parametrize("layout", ["dense", "by channel", "expanded"])
def test_what_it_computes_does_not_depend_on_the_layout(layout: str, width: int) -> None:
    """Against the formula in double precision, the gradients too."""
    shape = (2, 3, 20, width)
    drawn = torch.Generator().manual_seed(width)
    given = [torch.randn(shape, generator=drawn) * (16 / width) ** 0.25 for _ in range(3)]  # logits of one size
    if layout == "by channel":
        given = [each.transpose(-1, -2).contiguous().transpose(-1, -2) for each in given]
    elif layout == "expanded":
        given = [each[..., :1].expand(shape) for each in given]
    results = []
    for kind in (torch.float32, torch.float64):
        q, k, v = (each.to(kind).detach().requires_grad_() for each in given)
        if kind is torch.float32:
            out = attention.attend(q, k, v)
        else:
            out = torch.einsum("bhnl,bhld->bhnd", (torch.einsum("bhnd,bhld->bhnl", q, k) * width**-0.5).softmax(-1), v)
        out.square().sum().backward()
        results.append([out, q.grad, k.grad, v.grad])
    for ours, exact in zip(*results, strict=True):
        assert ours is not None and exact is not None
        size = max(1.0, float(exact.detach().abs().max()))
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=5e-5 * size)


@pytest.mark.parametrize("kind", [AttentionBlock, SpatialSelfAttention])
def test_the_same_bits_each_time(kind: Callable[..., nn.Module]) -> None:
    module = kind(32, 4, norm_groups=8) if kind is AttentionBlock else kind(32, norm_groups=8)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    given, results = torch.randn(3, 32, 12, 12), []
    for _ in range(2):
        module.zero_grad()
        x = given.clone().requires_grad_()
        out = module(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(parameter.grad for parameter in module.parameters())])
    for first, again in zip(*results, strict=True):
        assert first is not None and again is not None and torch.equal(first, again)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("linear", [False, True])
def test_a_transformers_blocks_read_maps_by_token(form: torch.memory_format, linear: bool) -> None:
    """In bfloat16, whatever the layout and the projections."""
    module, (x, context) = _transformer(linear)()
    assert isinstance(module, SpatialTransformer)
    seen: list[Tensor] = []
    for block in module.transformer_blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        made = module(x.to(memory_format=form), context)
    assert [tuple(each.shape) for each in seen] == [(2, 64, 32)] * 2
    assert all(each.is_contiguous() for each in seen)
    assert made.is_contiguous(memory_format=form)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("count", "side"), [(1, 8), (2, 8), (3, 5), (5, 1)])
def test_the_layout_of_tokens_in_float32_changes_no_bit(
    form: torch.memory_format, linear: bool, count: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside views of the map, as older versions have it: results and gradients, of trainings that are resumed."""
    module, _ = _transformer(linear)()
    draw = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=draw)
    given = torch.randn(count, 32, side, side, generator=draw).to(memory_format=form)
    context = torch.randn(count, 5, 24, generator=draw)
    by_token: list[bool] = []
    block = next(iter(module.transformer_blocks))  # type: ignore[arg-type]
    block.register_forward_pre_hook(lambda _, inputs: by_token.append(inputs[0].is_contiguous()))

    def results() -> list[Tensor]:
        module.zero_grad()
        x, tokens = given.clone(memory_format=torch.preserve_format).requires_grad_(), context.clone().requires_grad_()
        out = module(x, tokens)
        out.square().mean().backward()
        with torch.no_grad():
            alone = module(given, context)
        return [out, alone, x.grad, tokens.grad, *(p.grad for p in module.parameters())]  # type: ignore[list-item]

    now = results()
    taken, by_token[:] = list(by_token), []
    monkeypatch.setattr(attention, "_by_token_here", lambda *_: False)
    for ours, before in zip(now, results(), strict=True):
        assert torch.equal(ours, before) and ours.stride() == before.stride()
    if form is torch.contiguous_format and side > 1 and not linear:
        assert taken == [count > 1, True] and by_token == [False, False]
