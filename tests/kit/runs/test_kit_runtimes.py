"""The suite of runtimes: a right one passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import attrs
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from planted import Empty, Mistake, assert_found, faults_of, mistakes
from torch import Tensor

from ldm_core.contracts import Cond, Network, Runtime, RuntimeConfig, Site
from ldm_core.testing import RuntimeSuite


class Right(Runtime):
    """Copies of modules."""

    def __init__(self, config: Empty, site: Site) -> None:
        self.words = "copies 1.0"

    def function(self, network: Network) -> Callable[..., Tensor]:
        copied = Network(network.name, deepcopy(network.module), network.precision)

        def call(*arguments: Any) -> Tensor:
            return self.computed(copied, arguments).float()

        return call

    def computed(self, network: Network, arguments: tuple[Any, ...]) -> Tensor:
        return network.call(*arguments)


class Wordless(Right):
    def __init__(self, config: Empty, site: Site) -> None:
        self.words = ""


class ByRows(Right):
    """Prepared at the first batch, and filled up to it."""

    def function(self, network: Network) -> Callable[..., Tensor]:
        plainly, rows = super().function(network), [0]

        def call(*arguments: Any) -> Tensor:
            rows[0] = rows[0] or len(arguments[0])
            return plainly(*arguments)[: rows[0]]

        return call


class BySize(Right):
    """The number of cells of the first call is a constant."""

    def function(self, network: Network) -> Callable[..., Tensor]:
        plainly, cells = super().function(network), [0]

        def call(*arguments: Any) -> Tensor:
            cells[0] = cells[0] or arguments[0][0, 0].numel()
            return plainly(*arguments) * (arguments[0][0, 0].numel() / cells[0])

        return call


class Maskless(Right):
    def computed(self, network: Network, arguments: tuple[Any, ...]) -> Tensor:
        if len(arguments) > 1:
            arguments = (*arguments[:2], arguments[2]._replace(crossattn_mask=None))
        return super().computed(network, arguments)


class FirstBundle(Right):
    """Keeps the first bundle as if a run had no other."""

    def function(self, network: Network) -> Callable[..., Tensor]:
        plainly, kept = super().function(network), list[Cond]()

        def call(*arguments: Any) -> Tensor:
            if len(arguments) > 1 and arguments[0].shape[0] == 3:
                kept.append(arguments[2])
                arguments = (*arguments[:2], kept[0])
            return plainly(*arguments)

        return call


class Coarse(Right):
    """Rounds its inputs to a few levels in bf16."""

    def computed(self, network: Network, arguments: tuple[Any, ...]) -> Tensor:
        if network.precision == "bf16":
            arguments = (arguments[0].round(), *arguments[1:])
        return super().computed(network, arguments)


class Traceback(Right):
    def function(self, network: Network) -> Callable[..., Tensor]:
        if network.precision == "fp16":
            raise RuntimeError("fp16: not implemented")
        return super().function(network)


class ByName(Right):
    """Prepares a network of each name once."""

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.made: dict[str, Callable[..., Tensor]] = {}

    def function(self, network: Network) -> Callable[..., Tensor]:
        if network.name not in self.made:
            self.made[network.name] = super().function(network)
        return self.made[network.name]


class ByModule(ByName):
    """Prepares each module once, and knows it by its identity."""

    def function(self, network: Network) -> Callable[..., Tensor]:
        key = str(id(network.module))
        if key not in self.made:
            self.made[key] = Right.function(self, network)
        return self.made[key]


class OneBuffer(Right):
    """Gives its results in one piece of memory."""

    def function(self, network: Network) -> Callable[..., Tensor]:
        plainly, kept = super().function(network), dict[tuple[int, ...], Tensor]()

        def call(*arguments: Any) -> Tensor:
            found = plainly(*arguments)
            return kept.setdefault(tuple(found.shape), torch.empty_like(found)).copy_(found)

        return call


class OneRequest(Right):
    """Keeps the arguments of a call on itself while it computes."""

    def function(self, network: Network) -> Callable[..., Tensor]:
        plainly = super().function(network)

        def call(*arguments: Any) -> Tensor:
            self.given = arguments
            for _ in range(300):
                _ = arguments[0].sum()  # time for another thread
            return plainly(*self.given)

        return call


class InPlace(Right):
    def computed(self, network: Network, arguments: tuple[Any, ...]) -> Tensor:
        found = super().computed(network, arguments)
        arguments[0].mul_(0.5)
        return found


class HalfWeights(Right):
    """Rounds the weights of the module itself."""

    def function(self, network: Network) -> Callable[..., Tensor]:
        for parameter in network.module.parameters():
            parameter.data = parameter.data.half().float()
        return network.call


class Trains(Right):
    def function(self, network: Network) -> Callable[..., Tensor]:
        network.module.train()
        return network.call


class Draws(Right):
    def computed(self, network: Network, arguments: tuple[Any, ...]) -> Tensor:
        torch.rand(1)
        return super().computed(network, arguments)


@attrs.frozen(kw_only=True)
class SaysHooks(RuntimeConfig):
    """Says of a copy that hooks act in it."""

    keeps_hooks = True


class Narrow(Right):
    def function(self, network: Network) -> Callable[..., Tensor]:
        plainly = super().function(network)
        return lambda *arguments: plainly(*arguments).bfloat16()


def test_a_right_runtime_passes() -> None:
    assert faults_of(RuntimeSuite, Right) == {}


@mistakes(
    Mistake(Wordless, "test_words_are_one_line", "words are ''"),
    Mistake(ByRows, "test_results_are_torchs_at_every_size", "5 rows"),
    Mistake(BySize, "test_results_are_torchs_at_every_size", "beyond the bound 0.001"),
    Mistake(Narrow, "test_results_are_torchs_at_every_size", "torch.bfloat16 comes back, not float32"),
    Mistake(Maskless, "test_bundles_of_every_sort", "a bundle with a mask"),
    Mistake(FirstBundle, "test_bundles_of_every_sort", "a bundle"),
    Mistake(Coarse, "test_bfloat16_stays_within_the_bound", "in bf16"),
    Mistake(Traceback, "test_refuses_in_one_line", "is to be an LDMError"),
    Mistake(ByName, "test_other_weights_are_seen", "a second network"),
    Mistake(ByModule, "test_other_weights_are_seen", "a network of changed weights"),
    Mistake(OneBuffer, "test_results_stay", "a later call changed an earlier result"),
    Mistake(OneRequest, "test_threads_do_not_meet", "thread"),
    Mistake(InPlace, "test_leaves_everything_as_it_was", "changed in place"),
    Mistake(HalfWeights, "test_leaves_everything_as_it_was", "weights were changed"),
    Mistake(Trains, "test_leaves_everything_as_it_was", "another mode"),
    Mistake(Draws, "test_leaves_everything_as_it_was", "global generator of torch"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(RuntimeSuite, mistake)


def test_hooks_that_do_not_act_are_found() -> None:
    assert_found(RuntimeSuite, Mistake(Right, "test_hooks_act_where_it_says_so", "a hooked network"), SaysHooks)
