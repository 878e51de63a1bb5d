"""The runtime of a pipeline: chosen by name, told in metadata, and torch where gradients are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor, nn

from ldm_core.builtin.runtimes.compiled import CompiledRuntime
from ldm_core.builtin.runtimes.config import CompiledConfig, TorchConfig
from ldm_core.builtin.runtimes.eager import TorchRuntime
from ldm_core.catalog import Catalog, Component
from ldm_core.contracts import Network, Runtime, RuntimeConfig, Site
from ldm_core.errors import ComponentError, ConfigError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.exchange.flat_network import FlatNetwork, flat_arguments
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing.base import randomize

TINY: dict[str, Any] = {
    "image_size": 16,
    "first_stage": "identity",
    "denoiser": {"use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
                 "norm_groups": 4},
    "conditioners": [{"use": "class_label", "classes": 3, "width": 8, "dropout": 0.1}],
    "guidance": {"use": "cfg", "scale": 3.0},
    "sampler": "ddim",
    "sample": {"steps": 3, "images": 2},
}  # fmt: skip


class Counted(Runtime):
    """Torch's calls, counted by the name of the network."""

    calls: dict[str, int]

    def __init__(self, config: RuntimeConfig, site: Site) -> None:
        self.words, type(self).calls = "counted 1", {}

    def function(self, network: Network) -> Any:
        def call(*arguments: Any) -> Tensor:
            assert not torch.is_grad_enabled()
            self.calls[network.name] = self.calls.get(network.name, 0) + 1
            return network.call(*arguments)

        return call


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    catalog = Catalog.discover()
    catalog.register(Component(kind="runtime", name="counted", config=TorchConfig, factory=Counted, summary="counts"))
    recipe = resolve(TINY, catalog)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    randomize(model, 3)
    return Pipeline(recipe, stage, model.requires_grad_(False), catalog)


def by(pipeline: Pipeline, name: str) -> Pipeline:
    return pipeline.with_settings({"sample": {"runtime": name}})


def drawn(pipeline: Pipeline, **options: Any) -> np.ndarray:
    made = pipeline.sample(inputs={"class_label": 1}, seed=5, **options)
    return np.stack([each.image for each in made]).astype(int)


def test_the_runtime_computes_both_networks_and_is_told(plain: Pipeline) -> None:
    counted = by(plain, "counted")
    assert (drawn(counted) == drawn(plain)).all()
    assert Counted.calls == {"denoiser": 3, "decode": 1}
    counted.encode(np.zeros((1, 3, 16, 16), np.uint8))
    assert Counted.calls["encode_moments"] == 1
    made = counted.sample(inputs={"class_label": 1})[0]
    assert made.metadata["runtime"] == "counted 1"
    assert "runtime" not in plain.sample(inputs={"class_label": 1})[0].metadata
    assert plain.model._function is None and "decode" not in vars(plain.stage)


def test_gradients_and_another_arithmetic_are_torchs_own(plain: Pipeline) -> None:
    counted = by(plain, "counted")
    assert counted.computed.words == {"runtime": "counted 1"}
    Counted.calls.clear()
    with counted.begin(inputs={"class_label": 1}, seed=5) as run:
        x = run.x.clone().requires_grad_()
        run.denoise(x, run.times[0]).x0.sum().backward()
    assert x.grad is not None and Counted.calls == {}
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        counted.computed.stage.decode(torch.zeros(1, 3, 16, 16))
    assert Counted.calls == {}


def test_an_unknown_runtime_is_one_line(plain: Pipeline) -> None:
    with pytest.raises(ComponentError, match=r"^sample\.runtime: no runtime named 'opnvino'.*compiled.*torch"):
        drawn(by(plain, "opnvino"))


def test_adapters_are_refused_by_a_runtime_without_hooks(plain: Pipeline) -> None:
    cached = plain.with_settings({"adapters": {"cache": {"use": "deep_cache"}}})
    with pytest.raises(ConfigError, match=r"sample\.runtime=compiled: takes networks as .* loaded.*cache changes"):
        drawn(by(cached, "compiled"))
    assert (drawn(by(cached, "counted")) == drawn(cached)).all()


def test_compiling_without_a_compiler_is_one_line(plain: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"sample\.runtime=compiled: torch\.compile needs a C\+\+ compiler here"):
        drawn(by(plain, "compiled"))


def test_blocks_of_a_copy_are_compiled(plain: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block by itself, its sizes symbols; the loaded modules stay as they are, and share their tensors."""
    asked: list[bool | None] = []

    def compiler(call: Any, *, dynamic: bool | None = None, **more: Any) -> Any:
        asked.append(dynamic)
        return call

    monkeypatch.setattr(torch, "compile", compiler)
    runtime = CompiledRuntime(CompiledConfig(), Site(size=(16, 16)))
    denoiser: Any = plain.model.denoiser
    copy = runtime.function(Network("denoiser", denoiser))
    assert isinstance(copy, nn.Module) and copy is not denoiser
    assert asked == [True] * len(denoiser.recompute_blocks())
    mine, theirs = dict(copy.named_parameters()), dict(denoiser.named_parameters())
    assert mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)
    assert all(vars(m).get("_compiled_call_impl") is None for m in denoiser.modules())


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class _Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width) for width in range(3, 13))

    def recompute_blocks(self) -> list[nn.Module]:
        return [*self.blocks]

    def decode(self, z: Tensor) -> Tensor:
        for block in self.blocks:
            z = block(z)
        return z


def test_more_blocks_of_a_class_than_torchs_limit_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten blocks of one class make ten graphs, whatever the batch, and ten for single rows, which torch tells apart."""
    graphs: list[object] = []
    compiler = torch.compile

    def counting(graph: Any, example: object) -> Any:
        graphs.append(graph)
        return graph.forward

    def by_counting(call: Any, **more: Any) -> Any:
        return compiler(call, backend=counting, **more)

    monkeypatch.setattr(torch, "compile", by_counting)
    module = _Blocks().eval().requires_grad_(False)
    decode = CompiledRuntime(CompiledConfig(), Site(size=(16, 16))).function(Network("decode", module))
    with torch.no_grad():
        for rows, count in ((40, 10), (50, 10), (2, 10), (1, 20), (7, 20)):
            z = torch.randn(rows, 3)
            assert torch.equal(decode(z), module.decode(z)) and len(graphs) == count


def test_torch_gives_the_networks_own_call(plain: Pipeline) -> None:
    network = Network("decode", plain.stage)  # type: ignore[arg-type]
    assert TorchRuntime(TorchConfig(), Site(size=(16, 16))).function(network) == plain.stage.decode


def test_a_flat_network_takes_tensors_by_name(plain: Pipeline) -> None:
    """A denoiser of lower precision is widened in a copy; results are those of the bundle."""
    model = plain.model
    cond = model.merged(model.encode({"class_label": torch.tensor([0, 2])}))
    x, level = torch.randn(2, 3, 16, 16), torch.tensor([10.0, 900.0])
    network = Network("denoiser", model.denoiser)  # type: ignore[arg-type]
    flat = FlatNetwork(network, [*cond.flat()])
    given = flat_arguments((x, level, cond))
    assert tuple(given) == flat.names and all(value.is_contiguous() for value in given.values())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = flat(*given.values())
    with torch.no_grad():
        assert torch.equal(found, network.call(x, level, cond))
