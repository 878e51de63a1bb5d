"""The conformance suite of denoisers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ldm_core.contracts import CondSpec, Denoiser, DenoiserAnswers, DenoiserConfig, Site, configs
from ldm_core.contracts.conditioning import Cond, Tokens, mask_of
from ldm_core.nn.recompute import recompute
from ldm_core.testing import batches
from ldm_core.testing.base import largest_difference, randomize, same
from ldm_core.testing.promises.largest_size import LargestSizeSuite
from ldm_core.testing.promises.layers import LayerSuite
from ldm_core.testing.promises.spans import SpanSuite
from ldm_core.testing.rules import Rule

_TOKENS = 5


class DenoiserSuite(LayerSuite, SpanSuite, LargestSizeSuite):
    """Subclass it, set `component` and `settings`.

    The conditioning around it has every part of the config's `accepts`; extras by name need their shapes in
    `cond_spec`. :meth:`cond` may be extended, by residuals for instance: it is no test.
    """

    kind = "denoiser"
    protocol: ClassVar[type] = Denoiser
    cond_spec: ClassVar[CondSpec | None] = None

    def conditioning(self) -> CondSpec:
        """The widths of the conditioning around the denoiser."""
        if self.cond_spec is not None:
            return self.cond_spec
        accepts = configs.of(DenoiserConfig, self.config()).accepts
        return CondSpec(
            crossattn=8 if accepts.crossattn else 0,
            vector=6 if accepts.vector else 0,
            concat=2 if accepts.concat else 0,
            tokens={name: 7 + i for i, name in enumerate(accepts.tokens)},
        )

    def cond(self, rows: Sequence[int], size: tuple[int, ...]) -> Cond:
        """A bundle of the examples `rows`: every part of :meth:`conditioning`; row i depends on rows[i] alone."""
        spec = self.conditioning()
        crossattn = batches.normal(rows, (_TOKENS, spec.crossattn), "crossattn") if spec.crossattn else None
        return Cond(
            crossattn=crossattn,
            vector=batches.normal(rows, (spec.vector,), "vector") if spec.vector else None,
            concat=batches.normal(rows, (spec.concat, *self.latent.shape(size)[1:]), "concat") if spec.concat else None,
            extras={
                name: batches.normal(rows, [n if n is not None else _TOKENS for n in shape], name)
                for name, shape in spec.extras.items()
            },
            tokens={name: Tokens(batches.normal(rows, (_TOKENS, n), name)) for name, n in spec.tokens.items()},
        )

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        """Size, latents and merged conditioning."""
        size = size or self.sizes[0]
        return Site(size=size, channels=self.image_channels, latent=self.latent, cond=self.conditioning())

    def build(
        self, overrides: Mapping[str, Any] | None = None, *, size: tuple[int, ...] | None = None, seed: int = 0
    ) -> Any:
        """A fresh denoiser with all weights moved away from zero: weights of zero would hide everything."""
        built = super().build(overrides, size=size, seed=seed)
        randomize(built, seed)
        return built

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        """x (B, C, *s), noise_level (B,) float32 and the bundle."""
        return {
            "x": batches.normal(rows, self.latent.shape(size), "x"),
            "noise_level": torch.tensor([float(7 + 131 * i) for i in rows]),
            "cond": self.cond(rows, size),
        }

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """One call, as a module, so that hooks see it."""
        return {"F": component(inputs["x"], inputs["noise_level"], inputs["cond"])}

    @Rule(
        Denoiser.forward,
        "the first C channels are F",
        "read the widths from site.latent.channels, and bring every size back to what it was",
    )
    def test_output_shape(self) -> None:
        """x (B, C, *s) -> (B, C or more, *s), at every size."""
        for size in self.sizes:
            value = self._quietly(self.build(size=size), self.inputs(range(2), size))["F"]
            channels, *grid = self.latent.shape(size)
            assert list(value.shape[2:]) == grid, f"F lies on {list(value.shape[2:])}, x on {grid}"
            assert value.shape[1] >= channels, f"F has {value.shape[1]} channels, x {channels}"

    @Rule(
        Denoiser.forward,
        "F has a gradient with respect to x",
        "detach nothing, and drop parameters that no output depends on",
    )
    def test_gradients_reach_every_parameter(self) -> None:
        """Training reaches all of it."""
        denoiser = self.build()
        value = self.run(denoiser, self.inputs(range(2), self.sizes[0]))["F"]
        value.float().square().sum().backward()
        lost = [n for n, p in denoiser.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        assert not lost, f"no gradient reaches {', '.join(lost)}"

    @Rule(
        Denoiser.forward,
        "F has a gradient with respect to x",
        "detach nothing, and drop parameters that no output depends on",
    )
    def test_gradients_reach_the_input(self) -> None:
        """F is differentiable in x, for guidance by gradients."""
        denoiser, given = self.build(), self.inputs(range(1), self.sizes[0])
        given["x"].requires_grad_()
        (gradient,) = torch.autograd.grad(self.run(denoiser, given)["F"].sum(), given["x"], allow_unused=True)
        assert gradient is not None and bool(gradient.isfinite().all()), "no finite gradient with respect to x"

    @Rule(
        Denoiser.forward,
        "that the config's `accepts` names changes F",
        "use the part in forward, or leave it out of the config's accepts",
    )
    def test_every_conditioning_part_matters(self) -> None:
        """Changing any one part of the bundle changes F."""
        denoiser, given = self.build(), self.inputs(range(2), self.sizes[0])
        before = self._quietly(denoiser, given)["F"]
        flat = given["cond"].flat()
        spec = self.conditioning()
        declared = {k for k in ("crossattn", "vector", "concat") if getattr(spec, k)} | {
            f"tokens/{k}" for k in spec.tokens
        }
        assert declared <= flat.keys(), f"cond() leaves out {sorted(declared - flat.keys())}"
        for name, value in flat.items():
            if not value.is_floating_point():
                continue
            changed = given["cond"].unflat({**flat, name: value.flip(0)})
            after = self._quietly(denoiser, {**given, "cond": changed})["F"]
            assert largest_difference(before, after) > 1e-6, f"'{name}' does not change the output"

    @Rule(Denoiser.forward, "Each row has a noise level of its own", "embed noise_level (B,), each row's own")
    def test_the_noise_level_matters(self) -> None:
        """Another noise level gives another F."""
        denoiser, given = self.build(), self.inputs(range(2), self.sizes[0])
        before = self._quietly(denoiser, given)["F"]
        after = self._quietly(denoiser, {**given, "noise_level": given["noise_level"] + 200.0})["F"]
        assert largest_difference(before, after) > 1e-6, "the noise level does not change the output"

    @Rule(
        Denoiser.forward,
        "the mask of a named set hides does not",
        "hand the mask to the attention (True = attend), and weigh a mean over tokens by it",
    )
    def test_masked_tokens_do_not_matter(self) -> None:
        """Tokens that a set's mask hides have no influence; a mask of all True is no mask."""
        denoiser, given = self.build(), self.inputs(range(2), self.sizes[0])
        flat, plain = given["cond"].flat(), self._quietly(denoiser, given)["F"]
        for part in [part for part in flat if mask_of(part)]:
            full, hidden, other = (
                self._quietly(denoiser, {**given, "cond": given["cond"].unflat(changed)})["F"]
                for changed in _masked(flat, part)
            )
            assert largest_difference(plain, full) <= self.atol, f"a mask of all True over {part} changes the output"
            assert largest_difference(hidden, other) <= self.atol, f"masked tokens of {part} change the output"
            assert largest_difference(hidden, plain) > 1e-6, f"the mask of {part} is not used: it changes nothing"

    @Rule(
        Denoiser,
        "F of the prepared bundle is F of the bundle",
        "put into extras what forward then reads, and leave the parts of the bundle as they are",
    )
    def test_prepare_changes_nothing(self) -> None:
        """F of a bundle that went through `prepare` is F of the bundle."""
        denoiser, given = self.build(), self.inputs(range(2), self.sizes[0])
        if (prepare := configs.of(DenoiserAnswers, denoiser).prepare) is None:
            return
        before = _copies(given["cond"])
        with torch.no_grad():
            prepared = prepare(given["cond"])
        assert isinstance(prepared, Cond), f"prepare returned {type(prepared).__name__}, not a Cond"
        assert same(before, _copies(given["cond"])), "prepare changed the bundle in place"
        a, b = (self._quietly(denoiser, {**given, "cond": c})["F"] for c in (given["cond"], prepared))
        assert largest_difference(a, b) <= self.atol, "a prepared bundle gives another output"

    @Rule(Denoiser, "again changes no gradient", "name modules of the denoiser itself whose forward keeps no state")
    def test_recomputed_blocks_have_equal_gradients(self) -> None:
        """Running its `recompute_blocks` again in the backward pass changes no gradient and no key."""
        found = []
        for again in (False, True):
            denoiser, given = self.build().train(), self.inputs(range(2), self.sizes[0])
            if (named := configs.of(DenoiserAnswers, denoiser).recompute_blocks) is None:
                return
            blocks = named()
            assert blocks, "recompute_blocks names none"
            inside = {id(m) for m in denoiser.modules()}
            assert all(id(b) in inside for b in blocks), "recompute_blocks names a module that is not in the denoiser"
            if again:
                recompute(blocks)
            with torch.random.fork_rng():
                torch.manual_seed(0)  # dropout, where there is any
                self.run(denoiser, given)["F"].float().square().sum().backward()
            found.append({n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None})
        assert same(*found), "recomputed blocks give other gradients"

    @Rule(
        Denoiser.forward,
        "Each row has a noise level of its own",
        "embed noise_level (B,) row by row: no mean, no first element",
    )
    def test_mixed_noise_levels_in_one_batch(self) -> None:
        """noise_level is per example: swapping two rows of everything swaps the output."""
        denoiser, given = self.build(), self.inputs(range(2), self.sizes[0])
        there = self._quietly(denoiser, given)["F"]
        swapped = {
            "x": given["x"].flip(0),
            "noise_level": given["noise_level"].flip(0),
            "cond": given["cond"].map(lambda v: v.flip(0)),
        }
        back = self._quietly(denoiser, swapped)["F"].flip(0)
        assert largest_difference(back, there) <= self.atol, "swapping the examples does not swap the output"


def _copies(cond: Cond) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in cond.flat().items()}


def _masked(flat: Mapping[str, Tensor], part: str) -> Iterator[dict[str, Tensor]]:
    """A set of tokens with a mask of all True; with its last two hidden; and these moved as well."""
    tokens, mask = flat[part], str(mask_of(part))
    shows = torch.ones(tokens.shape[:2], dtype=torch.bool)
    hides = shows.clone()
    hides[:, -2:] = False
    yield {**flat, mask: shows}
    yield {**flat, mask: hides}
    yield {**flat, mask: hides, part: torch.cat([tokens[:, :-2], tokens[:, -2:] + 3.0], 1)}
