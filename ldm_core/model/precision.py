"""A model's weights as sampling wants them: laid out and rounded once, and not at each call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ldm_core.contracts.configs import precision_among
from ldm_core.contracts.values import Precision
from ldm_core.errors import ConfigError
from ldm_core.model.arithmetic import AUTOCAST
from ldm_core.model.diffusion import Model
from ldm_core.model.finite import warn_of
from ldm_core.nn.packed_convolution import pack


def settle(model: Model, precision: Precision = "fp32") -> None:
    """Let `model` sample at `precision` from here on; for sampling alone, since its weights are rounded in place.

    Under ``bf16`` and ``fp16`` the denoiser's linear layers and convolutions hold their weights in this type: autocast
    would round frozen weights anew at each call. All other weights (norms, embeddings, conditioners, the first stage)
    stay float32. On a CPU, and at lower precision elsewhere, the weights of two-dimensional convolutions lie channels
    last, for faster kernels; this changes results by rounding. In ``bf16`` on a CPU convolutions keep their weights a
    second time, in their kernels' order. Warns of weights beyond fp16's range.

    Raises :class:`ConfigError` for a lower precision that the config of the denoiser or an adapter does not allow;
    where they cannot run in float32, they take the precision that they all allow in its place.
    """
    among = [each for each in model.allowed("denoiser") if not any(_refusals(model, each))]
    if not among:
        each = "; ".join(f"{name} runs in {' or '.join(among)}" for name, among in _allowances(model))
        raise ConfigError(f"`precision`: the parts have none in common ({each}); take an adapter off")
    if precision == "fp32":
        precision = precision_among(among, precision)
    require_allowed(model, precision)
    model.precision = precision
    denoiser = cast(nn.Module, model.denoiser)
    if precision in AUTOCAST:
        rounded: dict[str, Tensor] = {}
        for name, module in denoiser.named_modules():
            if isinstance(module, nn.Linear | _ConvNd):
                module.to(AUTOCAST[precision])
                rounded.update({f"denoiser.{name}.{key}": value for key, value in module.named_parameters()})
        if precision == "fp16":
            warn_of(rounded, "at precision fp16, which ends at 65504", "bf16 and fp32 hold more")
    if model.device.type == "cpu" or precision in AUTOCAST:
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model.device.type == "cpu" and precision == "bf16":
        pack(denoiser)


def require_allowed(model: Model, precision: Precision) -> None:
    """:class:`ConfigError` if the denoiser or an adapter of `model` does not run in `precision`."""
    if problems := list(_refusals(model, precision)):
        raise ConfigError(problems)


def _refusals(model: Model, precision: Precision) -> Iterator[str]:
    for name, among in _allowances(model):
        if precision not in among:
            yield f"`precision`: {precision}, and {name} runs in {' or '.join(among)} alone; give one of these"


def _allowances(model: Model) -> Iterator[tuple[str, tuple[Precision, ...]]]:
    """The denoiser and each adapter, with its precisions."""
    names = {} if model.contracts is None else model.contracts.parts
    for part in ("denoiser", *(f"adapters.{key}" for key in model.attached)):
        yield str(names.get(part, part)), model.allowed(part)
