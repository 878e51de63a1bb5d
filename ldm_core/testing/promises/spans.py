"""The spans of a denoiser that a cache may leave out: called as they say, and read at their ends alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn

from ldm_core.contracts import BlockSpan, DenoiserAnswers, configs
from ldm_core.nn.hooks import Around, surround
from ldm_core.testing.base import same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import ModuleSuite

_Call: TypeAlias = "tuple[int, tuple[object, ...], object]"
"""The number of a block, its arguments and its output."""
_Instead: TypeAlias = "Callable[..., object]"
"""``call(place, forward, *args, **kwargs)``, in the place of a block's forward."""


class SpanSuite(ModuleSuite):
    """The part of a denoiser's suite about what a cache may keep."""

    @Rule(
        BlockSpan,
        "each one inside the one before",
        "list spans of modules of the denoiser itself, from the one that saves most to the one that saves least",
    )
    def test_spans_lie_inside_each_other(self) -> None:
        """Each span has blocks of the denoiser, some of those of the span before."""
        denoiser = self.build()
        inside = {id(module) for module in denoiser.modules()}
        before: set[int] | None = None
        for number, span in enumerate(_spans(denoiser)):
            blocks = {id(block) for block in span.blocks}
            assert blocks, f"span {number} has no blocks"
            assert blocks <= inside, f"span {number} has a module that is not in the denoiser"
            assert before is None or before > blocks, f"span {number} does not lie inside of span {number - 1}"
            before = blocks

    @Rule(
        BlockSpan,
        "are called once an evaluation, in this order",
        "name the blocks as forward calls them, each with the features first, and each giving one tensor",
    )
    def test_spans_are_called_as_they_say(self) -> None:
        """Blocks are called once, in their order, features in and features out; a residual one keeps their shape."""
        denoiser = self.build()
        for number, span in enumerate(_spans(denoiser)):
            calls, _ = self._watched(denoiser, span, _forwarded)
            order = [place for place, _, _ in calls]
            assert order == list(range(len(span.blocks))), f"span {number} is called in the order {order}"
            shapes = [_shapes(f"block {place} of span {number}", args, out) for place, args, out in calls]
            enters, leaves = shapes[0][0], shapes[-1][1]
            assert not span.residual or enters == leaves, f"span {number} is residual, takes {enters}, gives {leaves}"

    @Rule(
        BlockSpan,
        "without the others, and with the last one as it was",
        "name the last block whose output goes on alone, and leave outputs as they are: h = h + skip, not h += skip",
    )
    def test_spans_are_read_at_their_ends(self) -> None:
        """With blocks of a span left out, and its last output put in their place, F has the same bits."""
        denoiser = self.build()
        for number, span in enumerate(_spans(denoiser)):
            calls, expected = self._watched(denoiser, span, _forwarded)
            outs = [out for _, _, out in calls if isinstance(out, Tensor)]
            try:
                _, found = self._watched(denoiser, span, partial(_left_out, outs))
            except RuntimeError as error:
                raise AssertionError(f"without span {number}, forward fails: {error}") from error
            assert same(expected, found), f"without span {number}, its last output in its place, F has other bits"

    def _watched(self, denoiser: nn.Module, span: BlockSpan, call: _Instead) -> tuple[list[_Call], dict[str, Tensor]]:
        """The calls of the span's blocks, `call` standing for each, and F."""
        calls: list[_Call] = []

        def around(place: int, forward: Around, *args: object, **kwargs: object) -> object:
            out = call(place, forward, *args, **kwargs)
            calls.append((place, args, out))
            return out

        handles = [surround(block, partial(around, place)) for place, block in enumerate(span.blocks)]
        try:
            return calls, self._quietly(denoiser, self.inputs(range(2), self.sizes[0]))
        finally:
            for handle in handles:
                handle.remove()


def _shapes(block: str, args: tuple[object, ...], out: object) -> tuple[list[int], list[int]]:
    """The shapes of a block's first argument and of its output."""
    enters = args[0] if args else None
    assert isinstance(enters, Tensor), f"{block} is not handed the features first"
    assert isinstance(out, Tensor), f"{block} gives {type(out).__name__}"
    assert len(out) == len(enters), f"{block} takes {len(enters)} rows and gives {len(out)}"
    return list(enters.shape), list(out.shape)


def _forwarded(place: int, forward: Around, *args: object, **kwargs: object) -> object:
    return forward(*args, **kwargs)


def _left_out(outs: list[Tensor], place: int, forward: object, *args: object, **kwargs: object) -> Tensor:
    """The last block's output of before, and for each other a single zero, expanded: no change in place is allowed."""
    return outs[-1] if place == len(outs) - 1 else outs[place].new_zeros(()).expand(outs[place].shape)


def _spans(denoiser: nn.Module) -> list[BlockSpan]:
    named = configs.of(DenoiserAnswers, denoiser).reusable_spans
    return [] if named is None else list(named())
