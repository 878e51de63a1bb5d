"""Kinds of operation by their names, and their shares of a call of one kind."""

from __future__ import annotations

import pytest
import torch
from ldm_plugin_study.bench.gauge import kinds
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::conv2d", "convolutions"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("mkldnn::_convolution_pointwise", "convolutions"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("aten::addmm", "products"),
        ("aten::bmm", "products"),
        ("MmBackward0", "products"),
        ("aten::matmul", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::_softmax", "attention"),
        ("aten::native_group_norm", "norms"),
        ("NativeLayerNormBackward0", "norms"),
        ("aten::silu", "activations"),
        ("aten::gelu_backward", "activations"),
        ("aten::mul", "arithmetic"),
        ("AddBackward0", "arithmetic"),
        ("aten::sum", "arithmetic"),
        ("aten::_to_copy", "copies"),
        ("aten::cat", "copies"),
        ("aten::upsample_nearest2d", "resizing"),
        ("aten::constant_pad_nd", "resizing"),
        ("aten::view", "rest"),
        ("sm80_xmma_fprop_implicit_gemm_bf16", "products"),
    ],
)
def test_an_operation_has_its_kind(operation: str, kind: str) -> None:
    assert kinds.kind_of(operation) == kind


@pytest.mark.parametrize(
    ("module", "shape", "kind"),
    [
        (nn.Conv2d(32, 32, 3), (4, 32, 48, 48), "convolutions"),
        (nn.Linear(512, 512), (512, 512), "products"),
        (nn.GroupNorm(4, 64), (8, 64, 64, 64), "norms"),
        (nn.GELU(), (512, 4096), "activations"),
    ],
)
def test_a_call_of_one_kind_has_nearly_all_of_the_time(module: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    """Forward, and for layers with weights backward too."""
    x = torch.randn(shape)

    def call() -> None:
        out = module(x)
        if kind in ("convolutions", "products"):
            out.backward(x.new_ones(()).expand_as(out))

    call()
    found = kinds.shares(call, CPU)
    assert found[kind] > 0.6 and sum(found.values()) == pytest.approx(1, abs=0.02)
    assert set(found) <= set(kinds.KINDS)


def test_attention_is_told_apart(capfd: pytest.CaptureFixture[str]) -> None:
    q = torch.randn(2, 4, 512, 32)

    def call() -> Tensor:
        return F.scaled_dot_product_attention(q, q, q)

    assert kinds.shares(call, CPU)["attention"] > 0.6
    assert capfd.readouterr() == ("", "")
