"""Sampling on OpenVINO: torch's pictures, converted once, whatever lies in the cache, and one line of each refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_openvino import cache, conversion, library
from ldm_plugin_openvino.config import OpenVINOConfig
from ldm_plugin_openvino.runtime import OpenVINORuntime
from one_thread import each_module as _one_thread  # noqa: F401
from together import together

from ldm_core.catalog import Catalog
from ldm_core.contracts import Cond, CondSpec, Network, Site
from ldm_core.contracts.values import Precision
from ldm_core.errors import ConfigError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.image_to_image import Start
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing import toys
from ldm_core.testing.base import randomize, seeded

TINY: dict[str, Any] = {
    "image_size": 16,
    "first_stage": {"use": "kl_ae", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "norm_groups": 4,
                    "z_channels": 3},
    "denoiser": {"use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
                 "norm_groups": 4},
    "conditioners": [{"use": "text", "width": 8, "layers": 1, "vocab_size": 64, "length": 8, "dropout": 0.1},
                     {"use": "class_label", "classes": 3, "width": 8, "dropout": 0.1}],
    "guidance": {"use": "cfg", "scale": 3.0},
    "sampler": "ddim",
    "sample": {"steps": 3, "images": 2},
}  # fmt: skip
CAPTIONS = ["a red circle", "a blue square"]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package, imported without its reports, and a cache of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(tmp_path_factory.mktemp("openvino") / "kept"))
        try:
            library.library()
        except ConfigError as error:
            pytest.skip(str(error))
        yield


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    catalog = Catalog.discover()
    recipe = resolve(TINY, catalog)
    stage = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    model.conditioners["text"].fit({"caption": c} for c in CAPTIONS * 20)  # type: ignore[operator]
    randomize(model, 3)
    return Pipeline(recipe, stage, model.requires_grad_(False), catalog)


@pytest.fixture(scope="module")
def pipeline(plain: Pipeline) -> Pipeline:
    return plain.with_settings({"sample": {"runtime": "openvino"}})


def drawn(pipeline: Pipeline, **options: Any) -> np.ndarray:
    made = pipeline.sample(CAPTIONS, **{"inputs": {"class_label": 1}, "seed": 5, **options})
    return np.stack([each.image for each in made]).astype(int)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of one test's own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def runtime() -> OpenVINORuntime:
    return OpenVINORuntime(OpenVINOConfig(), Site(size=(8, 8)))


def network(seed: int, precision: Precision = "fp32") -> Network:
    """A denoiser of a few numbers with tokens and a vector."""
    with seeded(seed):
        net = toys.ToyDenoiser(cond=CondSpec(crossattn=6, vector=5))
    return Network("denoiser", net.eval().requires_grad_(False), precision)


def call(rows: int, side: int) -> tuple[torch.Tensor, torch.Tensor, Cond]:
    generator = torch.Generator().manual_seed(rows)
    x, tokens = (torch.randn(shape, generator=generator) for shape in ((rows, 4, side, side), (rows, 3, 6)))
    return x, torch.arange(1.0, rows + 1) * 100, Cond(crossattn=tokens, vector=tokens[:, 0, :5])


def close(found: torch.Tensor, wanted: torch.Tensor, bound: float) -> bool:
    return conversion.distance(found, wanted) < bound


def converted() -> list[Path]:
    return sorted(path for path in cache.folder().iterdir() if not path.name.startswith("."))


def test_pictures_are_those_of_torch(plain: Pipeline, pipeline: Pipeline) -> None:
    """Guided, with two conditioners, of any number and size, from noise and from a picture."""
    picture = np.random.default_rng(0).integers(0, 255, (3, 16, 16)).astype(np.uint8)
    for options in (
        {},
        {"images": 3, "batch": 2},
        {"negative": "a blue square", "guidance": 1.5},
        {"start": Start.image(picture, strength=0.5)},
    ):
        mine, theirs = drawn(pipeline, **options), drawn(plain, **options)
        assert abs(mine - theirs).max() <= 1 and mine.std() > 5
    mine, theirs = (drawn(each.at_size((24, 32))) for each in (pipeline, plain))
    assert abs(mine - theirs).max() <= 1 and mine.shape == (2, 3, 24, 32)
    made = pipeline.sample(CAPTIONS[0], inputs={"class_label": 1})[0]
    assert made.metadata["runtime"] == pipeline.computed.words["runtime"] == f"openvino {version()}"
    assert "runtime" not in plain.sample(CAPTIONS[0], inputs={"class_label": 1})[0].metadata


def version() -> str:
    found: str = library.library().__version__
    return found.partition("-")[0]


def test_networks_are_converted_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another runtime of the same weights reads them from the disk, at other batches and sizes; one of others not."""
    made: list[str] = []
    plainly = conversion.converted

    def counted(net: Network, *more: Any, **named: Any) -> Any:
        made.append(net.name)
        return plainly(net, *more, **named)

    monkeypatch.setattr(conversion, "converted", counted)
    for seed, count in ((0, 1), (0, 1), (1, 2)):
        net = network(seed)
        function = runtime().function(net)
        for rows, side in ((2, 8), (5, 8), (1, 12)):
            assert close(function(*call(rows, side)), net.call(*call(rows, side)), 1e-5)
        assert len(made) == len(converted()) == count
    assert kept.stat().st_mode & 0o077 == 0


def test_bundles_of_other_parts_are_networks_of_their_own(kept: Path) -> None:
    """A mask that comes and goes, and options of a branch, change what is computed."""
    net = network(0)
    function = runtime().function(net)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for change in ({}, {"crossattn_mask": mask}, {"options": {"word": 1}}):
        x, level, cond = call(2, 8)
        cond = cond._replace(**change)
        assert close(function(x, level, cond), net.call(x, level, cond), 1e-5)
    assert len(converted()) == 3


@pytest.mark.parametrize("fault", ["cut", "of another network", "no model", "no sums"])
def test_a_damaged_or_foreign_file_is_converted_again(kept: Path, fault: str) -> None:
    net = network(0)
    wanted = runtime().function(net)(*call(2, 8))
    (place,) = converted()
    if fault == "cut":
        (place / "model.bin").write_bytes((place / "model.bin").read_bytes()[:-5])
    elif fault == "no sums":
        (place / "sums.json").unlink()
    else:  # its sums are right: whoever made it could write there
        if fault == "no model":
            (place / "model.xml").write_text("<net/>")
        else:
            runtime().function(network(1))(*call(2, 8))
            (other,) = set(converted()) - {place}
            for name in ("model.xml", "model.bin"):
                (other / name).replace(place / name)
        sums = {name: cache._sum(place / name) for name in ("model.xml", "model.bin")}
        (place / "sums.json").write_text(json.dumps(sums))
    assert torch.equal(runtime().function(net)(*call(2, 8)), wanted)
    assert cache.find(place.name) == place / "model.xml"


def test_a_folder_of_others_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "open"))
    with pytest.raises(ConfigError, match=r"others may write there.*chmod 700.*LDM_OPENVINO_CACHE"):
        runtime()


def test_a_disk_that_takes_nothing_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "kept"))
    net = network(0)
    assert close(runtime().function(net)(*call(2, 8)), net.call(*call(2, 8)), 1e-5)


def test_the_cache_keeps_those_used_last(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 2)
    for number, name in enumerate(("a", "b", "a", "c")):
        if cache.find(name) is None:
            cache.keep(name, lambda path: [(path.parent / file).write_text("x") for file in ("model.xml", "model.bin")])
        os.utime(kept / name, (number, number))
    assert [path.name for path in converted()] == ["a", "c"]


def test_bf16_stays_within_its_bound(kept: Path) -> None:
    net = network(0, "bf16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, wanted = runtime().function(net)(*call(2, 8)), net.call(*call(2, 8)).float()
    exact = network(0).call(*call(2, 8))
    assert found.dtype == torch.float32 and 1e-4 < conversion.distance(found, exact) < 0.03
    assert close(found, wanted, conversion.BOUNDS["bf16"])


def test_gradients_are_torchs(plain: Pipeline, pipeline: Pipeline) -> None:
    """Where a loop asks for gradients, they pass: the network is then torch's own."""
    found = []
    for each in (plain, pipeline):
        with each.begin(CAPTIONS, inputs={"class_label": 1}, seed=5) as run:
            x = run.x.clone().requires_grad_()
            run.denoise(x, run.times[0]).x0.square().sum().backward()
            found.append(x.grad)
    assert found[0] is not None and found[1] is not None and torch.equal(found[0], found[1])


def test_threads_share_a_pipeline(pipeline: Pipeline) -> None:
    alone = [drawn(pipeline, seed=seed) for seed in (1, 2)]
    made = together([partial(drawn, pipeline, seed=seed) for seed in (1, 2)])
    assert all((a == b).all() for a, b in zip(alone, made, strict=True))


def test_adapters_are_refused_in_one_line(pipeline: Pipeline) -> None:
    cached = pipeline.with_settings({"adapters": {"cache": {"use": "deep_cache"}}})
    with pytest.raises(ConfigError, match=r"sample\.runtime=openvino: .*here cache changes them.*adapters\.NAME=null"):
        drawn(cached)
    assert drawn(cached.with_settings({"sample": {"runtime": "torch"}})).shape == (2, 3, 16, 16)


def test_fp16_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fp32 or bf16 on a CPU, not in fp16; choose bf16"):
        runtime().function(network(0, "fp16"))


def test_a_network_that_needs_bf16_stays_torchs() -> None:
    net = Network("denoiser", torch.nn.Identity(), "bf16", ("bf16",))
    assert runtime().function(net) == net.call


def test_a_lacking_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino")
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"sample\.runtime=openvino: the package openvino does not import"):
        library.library()


class _Hidden:
    def find_spec(self, name: str, *more: object) -> None:
        if name == "openvino":
            raise ImportError("No module named 'openvino'")


def test_no_report_is_sent() -> None:
    """The package's reports of use are not loaded with it."""
    code = (
        "import sys\nfrom ldm_plugin_openvino.library import library\n"
        "ov = library()\nimport openvino.tools.ovc.main as main\n"
        "assert 'stub' in main.tm.__name__, main.tm\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr


_SIGNALLED = """
import gc, os, signal
import torch
from ldm_core.contracts import Network, Site
from ldm_plugin_openvino.config import OpenVINOConfig
from ldm_plugin_openvino.runtime import OpenVINORuntime

class Half(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3, 1, 1), value), requires_grad=False)
    def decode(self, x):
        return x * self.weight

signal.signal(signal.SIGTERM, lambda *given: print("handled", flush=True))
x = torch.ones(2, 3, 4, 4)
kept = []
for value in (0.5, 0.25, 2.0):  # a first one goes before a second
    kept.append(OpenVINORuntime(OpenVINOConfig(), Site(size=(4, 4))).function(Network("decode", Half(value))))
    assert torch.equal(kept[-1](x), x * value)
    del kept[:-1]
    gc.collect()
kept.clear()
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


def test_signals_are_handled_after_models_have_gone(kept: Path) -> None:
    """A process in which models came and went takes a signal as ever: with a core for each model it crashed."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED], capture_output=True, text=True, env=os.environ, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "alive"]), done.stderr


class _Fixed(torch.nn.Module):
    """A denoiser that a trace follows for one size alone: the number of cells becomes a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, cond: Cond) -> torch.Tensor:
        return x * self.weight * float(x[0, 0].numel()) + noise_level[:, None, None, None]


class _Unstable(_Fixed):
    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, cond: Cond) -> torch.Tensor:
        self.calls = vars(self).get("calls", 0) + 1
        return super().forward(x, noise_level, cond) * self.calls


def test_a_network_of_constant_sizes_gets_a_model_a_size() -> None:
    net = _Fixed().eval().requires_grad_(False)
    function = runtime().function(Network("denoiser", net))
    for side in (4, 6, 4, 8):
        x, level = torch.randn(3, 4, side, side), torch.tensor([1.0, 2.0, 3.0])
        assert torch.allclose(function(x, level, Cond()), net(x, level, Cond()), rtol=1e-5)


def test_other_results_than_torchs_are_one_line() -> None:
    net = _Unstable().eval().requires_grad_(False)
    with pytest.raises(
        ConfigError, match=r"denoiser cannot be computed there: .*differ from torch's by .*bound 0\.001"
    ):
        runtime().function(Network("denoiser", net))(torch.ones(2, 4, 4, 4), torch.ones(2), Cond())
