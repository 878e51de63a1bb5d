"""The conformance suite of runtimes: torch's results, whatever the call, and nothing else of torch's changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ldm_core.contracts import Cond, Network, Runtime, RuntimeConfig, configs
from ldm_core.contracts.values import Precision
from ldm_core.errors import LDMError
from ldm_core.testing.base import Suite, generators, same
from ldm_core.testing.rules import Rule
from ldm_core.testing.runtimes.networks import CELLS, NAMES, ROWS, Arguments, arguments, bundles, network

_KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_THREADS = 4
_TURNS = 5


class RuntimeSuite(Suite):
    """Subclass it, set `component`, and `bounds` for a runtime nearer to torch than by default."""

    kind = "runtime"
    protocol: ClassVar[type] = Runtime
    bounds: ClassVar[Mapping[str, float]] = MappingProxyType({"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1})
    """The largest distances from torch's float32, ``|a - b| / |b|`` in norms, by arithmetic; 0 = to the bit."""

    def computed(self, asked: Network, given: Arguments) -> Tensor:
        """The result of a new function for a network."""
        return _call(self.build().function(asked), asked.precision, given)

    @Rule(Runtime, "is its name with versions", "set words to one line, such as 'name 1.2', in __init__")
    def test_words_are_one_line(self) -> None:
        """There are words for the metadata of pictures."""
        words = self.build().words
        assert isinstance(words, str) and words.strip() and words.isprintable(), f"words are {words!r}"

    @Rule(Runtime.function, "at any batch and at every size", "let batch and sizes be symbols, or prepare each anew")
    def test_results_are_torchs_at_every_size(self) -> None:
        """Each network, by one function, in batches and sizes in any order."""
        for name in NAMES:
            asked, function = network(name), self.build().function(network(name))
            for cells in (*CELLS, CELLS[0]):
                for rows in ROWS:
                    given = arguments(name, rows, cells)
                    self._hold(_call(function, "fp32", given), asked, given, f"{name} of {cells}, {len(rows)} rows")

    @Rule(Runtime.function, "Equal arguments give", "prepare by the parts, the masks and the options of a bundle")
    def test_bundles_of_every_sort(self) -> None:
        """A guidance's branches by one function, in turns."""
        asked = network("denoiser")
        function = self.build().function(asked)
        for _ in range(2):
            for what, given in bundles().items():
                self._hold(_call(function, "fp32", given), asked, given, f"a bundle {what}")

    @Rule(Runtime.function, "It is called in the network's arithmetic", "give float32 results, computed in bf16")
    def test_bfloat16_stays_within_the_bound(self) -> None:
        """Under autocast, in a network of bf16, results are float32 and near torch's float32."""
        for name in NAMES:
            asked, given = network(name, precision="bf16"), arguments(name)
            self._hold(self.computed(asked, given), network(name), given, f"{name} in bf16", "bf16")

    @Rule(Runtime.function, "of one line says what this machine lacks", "raise ConfigError(one line) from function")
    def test_refuses_in_one_line(self) -> None:
        """Fp16 is computed, or refused in one line with a way out."""
        asked, given = network("denoiser", precision="fp16"), arguments("denoiser")
        try:
            found = self.computed(asked, given)
        except LDMError as error:
            assert "\n" not in str(error) and len(str(error)) > 20, f"no line to read: {error}"
        except Exception as error:
            raise AssertionError(f"fp16 raises {type(error).__name__} ({error}), and is to be an LDMError") from error
        else:
            self._hold(found, network("denoiser"), given, "denoiser in fp16", "fp16")

    @Rule(Runtime.function, "it computes with the new ones", "know networks by their weights, not by id, name or shape")
    def test_other_weights_are_seen(self) -> None:
        """One runtime, asked for three networks of one structure, and again after a change in place."""
        runtime, given = self.build(), arguments("denoiser")
        nets = [network("denoiser", seed=seed) for seed in (0, 1)]
        functions = [runtime.function(each) for each in nets]
        for each, function in zip(nets, functions, strict=True):
            self._hold(_call(function, "fp32", given), each, given, "a second network")
        with torch.no_grad():
            for parameter in nets[0].module.parameters():
                parameter.mul_(1.5)
        self._hold(_call(runtime.function(nets[0]), "fp32", given), nets[0], given, "a network of changed weights")
        self._hold(_call(functions[1], "fp32", given), nets[1], given, "a network beside a changed one")

    @Rule(Runtime.function, "in memory of their own", "copy results out of the buffers of a request")
    def test_results_stay(self) -> None:
        """A result is what it was after further calls, and writing into it changes no later one."""
        for name in NAMES:
            function = self.build().function(network(name))
            first = _call(function, "fp32", arguments(name, (0, 1)))
            before = first.clone()
            second = _call(function, "fp32", arguments(name, (2, 3)))
            assert same(first, before), f"{name}: a later call changed an earlier result"
            kept = second.clone()
            second.fill_(7.0)
            again = _call(function, "fp32", arguments(name, (2, 3)))
            assert same(again, kept), f"{name}: an equal call gives another result"

    @Rule(Runtime.function, "from several threads at once", "a request, a buffer, a lock a thread; keep none on self")
    def test_threads_do_not_meet(self) -> None:
        """Threads with one function, and with two functions of one runtime, get their own results."""
        runtime = self.build()
        nets = [network("denoiser", seed=seed) for seed in (0, 1)]
        calls = [(nets[i % 2], arguments("denoiser", (i, i + 1), CELLS[i % len(CELLS)])) for i in range(_THREADS)]
        functions = [runtime.function(each) for each in nets]
        for i, (_, given) in enumerate(calls):
            _call(functions[i % 2], "fp32", given)  # prepared before, and not in many threads at once
        found: dict[int, list[Tensor]] = {}
        failed: list[BaseException] = []
        begin = threading.Barrier(_THREADS)

        def work(i: int) -> None:
            try:
                begin.wait(60)
                found[i] = [_call(functions[i % 2], "fp32", calls[i][1]) for _ in range(_TURNS)]
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failed, f"a call in a thread raises {type(failed[0]).__name__}: {failed[0]}"
        for i, results in found.items():
            for result in results:
                self._hold(result, *calls[i], f"thread {i} of {_THREADS}")

    @Rule(Runtime.function, "it changes no argument and leaves", "work on copies; write to no tensor that is handed in")
    def test_leaves_everything_as_it_was(self) -> None:
        """Arguments, the module with its weights, hooks and mode, and the global generators stay."""
        for name in NAMES:
            asked, given = network(name), arguments(name)
            weights = {key: value.clone() for key, value in asked.module.state_dict().items()}
            parameters = dict(asked.module.named_parameters())
            wanted, taken = _torchs(asked, given), [value.clone() for value in _tensors(given)]
            state = generators()
            self.computed(asked, given)
            after = generators()
            for which, a, b in zip(("torch", "numpy", "random"), state, after, strict=True):
                assert same(a, b), f"{name}: draws from the global generator of {which}"
            assert same(taken, _tensors(given)), f"{name}: an argument was changed in place"
            assert same(weights, dict(asked.module.state_dict())), f"{name}: the weights were changed"
            now = dict(asked.module.named_parameters())
            kept = now.keys() == parameters.keys() and all(now[key] is parameters[key] for key in now)
            assert kept, f"{name}: the module has other parameters"
            modes = {(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in asked.module.modules()}
            assert modes == {(False, 0, 0)}, f"{name}: the module has another mode, or hooks"
            assert same(_torchs(asked, given), wanted), f"{name}: the module's own call gives another result"

    @Rule(Runtime, "act in it as before", "answer keeps_hooks with False, or call the module itself")
    def test_hooks_act_where_it_says_so(self) -> None:
        """With `keeps_hooks`, a hook inside of a network changes the result, and its going does too."""
        if not configs.of(RuntimeConfig, self.config()).keeps_hooks:
            pytest.skip("its config does not keep hooks")
        asked, given = network("denoiser"), arguments("denoiser")
        function = self.build().function(asked)
        plainly = _call(function, "fp32", given)
        hook = asked.module.get_submodule("mix").register_forward_hook(lambda m, args, out: out * 2)
        hooked = _call(function, "fp32", given)
        self._hold(hooked, asked, given, "a hooked network")
        hook.remove()
        assert not same(hooked, plainly), "a hook inside of the network does nothing"
        assert same(_call(function, "fp32", given), plainly), "a hook acts after it was taken away"

    def _hold(self, found: Tensor, asked: Network, given: Arguments, what: str, precision: Precision = "fp32") -> None:
        wanted = _torchs(asked, given)
        assert isinstance(found, Tensor) and found.shape == wanted.shape, (
            f"{what}: {tuple(found.shape)} comes back, not {tuple(wanted.shape)}"
        )
        bound = self.bounds[precision]
        kinds = (torch.float32,) if precision == "fp32" else (torch.float32, _KINDS[precision])  # torch's own call's
        assert found.dtype in kinds, f"{what}: {found.dtype} comes back, not float32"
        far = float((found.double() - wanted.double()).norm() / wanted.double().norm())
        assert far <= bound, f"{what}: {far:.2g} from torch's result, beyond the bound {bound:g}"


def _call(function: Callable[..., Tensor], precision: Precision, given: Arguments) -> Tensor:
    kind = _KINDS.get(precision)
    with torch.no_grad(), torch.autocast("cpu", dtype=kind or torch.bfloat16, enabled=kind is not None):
        return function(*given)


def _torchs(asked: Network, given: Arguments) -> Tensor:
    return _call(asked.call, "fp32", given).float()


def _tensors(given: Arguments) -> list[Tensor]:
    return [t for each in given for t in (each.flat().values() if isinstance(each, Cond) else [each])]
