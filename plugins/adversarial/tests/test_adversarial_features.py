"""The distance on a timm network's maps: a small ResNet of random weights, and the trained network beside the
repository where there is one."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ldm_plugin_adversarial.perceptual.config import FeaturesConfig, PerceptualConfig
from safetensors.torch import load_file, save_file
from together import together
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.catalog import Catalog
from ldm_core.config.overrides import apply_overrides
from ldm_core.config.structure import structure
from ldm_core.errors import CheckpointError, ConfigError, StorageError
from ldm_core.nn.torchvision_operators import importable
from ldm_core.recipe.keys import SINGLE
from ldm_core.recipe.resolve import resolve

TRAINED = Path(__file__).parents[4] / "shared" / "data" / "efficientnet_lite0" / "tf_efficientnet_lite0.safetensors"
NETWORK = "resnet10t"


def made(name: str = NETWORK, seed: int = 0) -> nn.Module:
    """A network of timm's with random weights and statistics."""
    with importable():
        import timm
    torch.manual_seed(seed)
    network: nn.Module = timm.create_model(name, pretrained=False)
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(std=0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    return made()


@pytest.fixture(scope="module")
def file(whole: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, path)
    return path


def images(count: int = 2, side: int = 64, channels: int = 3, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=g) * 2 - 1


def test_a_distance_goes_by_its_bare_name() -> None:
    """As everywhere else; the recipe's own form and its identity are those of the whole mapping."""
    catalog, plain = Catalog.discover(), {"first_stage": "kl_f4", "stage_objective": {"use": "adversarial"}}
    whole = resolve({**plain, "stage_objective": {"use": "adversarial", "perceptual": {"use": "none"}}}, catalog)
    for said in ("perceptual=none", "perceptual=lpips,perceptual.use=none"):
        given: dict[str, Any] = copy.deepcopy(plain)
        apply_overrides(given, [f"stage_objective.{line}" for line in said.split(",")], SINGLE)
        recipe = resolve(given, catalog)
        assert recipe.plain() == whole.plain() and recipe.identity() == whole.identity()
    plain["stage_objective"] = {"use": "adversarial", "perceptual": "lpps"}
    with pytest.raises(ConfigError, match=r"perceptual\.use: expected one of none, lpips, features, got 'lpps'; did"):
        resolve(plain, catalog)


def distance(file: Path, **settings: object) -> Any:
    from ldm_plugin_adversarial.perceptual.features import FeatureDistance

    return FeatureDistance(FeaturesConfig(network=NETWORK, weights=str(file), **settings))  # type: ignore[arg-type]


def network(file: Path, **settings: object) -> Any:
    from ldm_plugin_adversarial.perceptual.features import FeatureNetwork

    return FeatureNetwork(FeaturesConfig(network=NETWORK, weights=str(file), **settings))  # type: ignore[arg-type]


def by_hand(whole: Any, x: Tensor) -> list[Tensor]:
    """The maps of the stages, one module after the other, on pixels of the network's own statistics."""
    cfg = whole.pretrained_cfg
    h = ((x + 1) / 2 - torch.tensor(cfg["mean"]).view(1, 3, 1, 1)) / torch.tensor(cfg["std"]).view(1, 3, 1, 1)
    h = whole.act1(whole.bn1(whole.conv1(h)))
    maps = [h.clone()]
    h = whole.maxpool(h)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        h = whole.get_submodule(name)(h)
        maps.append(h.clone())
    return maps


def test_the_maps_are_the_networks_own(whole: nn.Module, file: Path) -> None:
    ours, x = network(file), images()
    assert ours.layers == ("act1", "layer1", "layer2", "layer3", "layer4")
    for mine, theirs in zip(ours(x), by_hand(whole, x), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        assert torch.equal(network(file, layers=("layer2",))(x)[0], by_hand(whole, x)[2])


def test_the_distance_is_that_of_unit_vectors(whole: nn.Module, file: Path) -> None:
    x, y = images(seed=1), images(seed=2)
    weights = (0.5, 0.0001, 2.0, 1.0, 3.0)
    expected = torch.zeros(2)
    for weight, a, b in zip(weights, by_hand(whole, x), by_hand(whole, y), strict=True):
        cosine = F.cosine_similarity(a, b, dim=1)
        zeros = (a.norm(dim=1) == 0).float() + (b.norm(dim=1) == 0).float()  # a zero vector is as far as its length
        expected += weight * (2 - 2 * cosine - zeros).mean((1, 2))
    found = distance(file, layer_weights=weights)(x, y)
    assert found.shape == (2, 1, 1, 1) and found.dtype == torch.float32
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-5)
    equal = distance(file)
    assert sum(equal.weights) == pytest.approx(1.0)
    assert float(equal(x, x).max()) == 0.0 < float(equal(x, y).min()) < 2.0


def test_it_is_frozen_and_reaches_the_images(file: Path) -> None:
    ours, x, y = distance(file), images(seed=1), images(seed=2).requires_grad_()
    ours.train()
    assert not any(m.training for m in ours.modules()) and not any(p.requires_grad for p in ours.parameters())
    before = copy.deepcopy(ours.state_dict())
    ours(x, y).sum().backward()
    assert y.grad is not None and float(y.grad.abs().sum()) > 0
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    flat = torch.full((1, 3, 64, 64), -1.0, requires_grad=True)
    ours(flat.detach(), flat).sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_it_draws_nothing_and_rows_are_apart(file: Path) -> None:
    state = torch.random.get_rng_state()
    ours, x, y = distance(file), images(3, seed=1), images(3, seed=2)
    both = ours(x, y)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(ours(x[1:2], y[1:2]), both[1:2])


def test_small_grey_and_scaled_images(file: Path) -> None:
    ours = network(file)
    assert [m.shape[2:] for m in ours(images(side=12))] == [m.shape[2:] for m in ours(images(side=32))]
    grey = images(channels=1)
    assert all(torch.equal(a, b) for a, b in zip(ours(grey), ours(grey.expand(-1, 3, -1, -1)), strict=True))
    scaled = F.interpolate((images() + 1) / 2, size=(96, 96), mode="bilinear", antialias=True)
    for a, b in zip(network(file, size=96)(images()), ours(scaled * 2 - 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="of equal shape"):
        distance(file)(images(), images(side=32))


def test_other_statistics_of_pixels(file: Path) -> None:
    own, x = network(file), images()
    shifted = network(file, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    cfg = own.network.pretrained_cfg
    same = (x * torch.tensor(cfg["std"]).view(1, 3, 1, 1) + torch.tensor(cfg["mean"]).view(1, 3, 1, 1)) * 2 - 1
    for a, b in zip(shifted(x), own(same), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_lower_precision_inside_and_float32_outside(file: Path) -> None:
    ours, x, y = distance(file), images(seed=1), images(seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        low = ours(x, y)
        assert ours.features(x)[3].dtype == torch.bfloat16
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, ours(x, y), rtol=0.1, atol=0.02)


def test_threads_do_not_meet(file: Path) -> None:
    ours = network(file)
    sets = [images(seed=s) for s in range(4)]
    expected = [ours(x) for x in sets]

    def thrice(x: Tensor) -> list[Any]:
        return [ours(x) for _ in range(3)]

    for turns, wanted in zip(together(partial(thrice, x) for x in sets), expected, strict=True):
        assert all(torch.equal(a, b) for maps in turns for a, b in zip(maps, wanted, strict=True))


@pytest.mark.parametrize(("name", "count", "shape"), [
    ("vit_tiny_patch16_224", 12, (2, 192, 197, 1)), ("swin_tiny_patch4_window7_224", 4, (2, 96, 56, 56)),
])  # fmt: skip
def test_tokens_and_channels_behind(tmp_path: Path, name: str, count: int, shape: tuple[int, ...]) -> None:
    """Networks of one input size, whose maps are tokens or have their channels last."""
    from ldm_plugin_adversarial.perceptual.features import FeatureDistance

    torch.save(made(name).state_dict(), tmp_path / "w.pth")
    ours = FeatureDistance(FeaturesConfig(network=name, weights=str(tmp_path / "w.pth")))
    maps = ours.features(images())
    assert len(maps) == count and maps[0].shape == shape
    assert float(ours(images(), images(seed=1)).min()) > 0


def test_weights_of_any_container_and_wrapper(whole: nn.Module, file: Path, tmp_path: Path) -> None:
    state = whole.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "a.pth")
    save_file(
        {k: v for k, v in load_file(file).items() if not k.endswith("num_batches_tracked")}, tmp_path / "b.safetensors"
    )
    x = images()
    for other in (tmp_path / "a.pth", tmp_path / "b.safetensors"):
        assert all(torch.equal(a, b) for a, b in zip(network(other)(x), network(file)(x), strict=True))


def test_nothing_of_a_pickle_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "was run"),)  # type: ignore[return-value]

    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        network(tmp_path / "evil.pth")
    assert not (tmp_path / "was run").exists()


def test_a_hash_is_held(file: Path) -> None:
    from ldm_core.recipe.artifacts import hash_of

    network(file, weights_sha256=hash_of(str(file)))
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        network(file, weights_sha256="0" * 64)


def test_errors_say_what_and_how(whole: nn.Module, file: Path, tmp_path: Path) -> None:
    from ldm_plugin_adversarial.perceptual.features import FeatureNetwork

    def fails(error: type[Exception], match: str, **settings: object) -> None:
        config = FeaturesConfig(**{"network": NETWORK, "weights": str(file), **settings})  # type: ignore[arg-type]
        with pytest.raises(error, match=match):
            FeatureNetwork(config)

    fails(ConfigError, "no network 'resnet_10t'; near are resnet10t", network="resnet_10t")
    fails(ConfigError, "no network 'hf-hub:timm/resnet10t.c3_in1k'", network="hf-hub:timm/resnet10t.c3_in1k")
    fails(ConfigError, r"cannot make 'resnet10t\.none' \(Invalid pretrained tag", network="resnet10t.none")
    fails(ConfigError, r"no layer 'layer5'; there are act1, layer1, layer2", layers=("layer5",))
    fails(StorageError, r"absent.*no such file.*python -c .*pretrained=True", weights=str(tmp_path / "absent.pth"))
    fails(ConfigError, r"perceptual\.weights: path or URL of weights of resnet10t; get them once", weights="")
    fails(CheckpointError, r"fit timm's resnet18, of 120 tensors: \d+ missing \(.*of another shape", network="resnet18")
    save_file({k: v for k, v in load_file(file).items() if "layer3" not in k}, tmp_path / "cut.safetensors")
    fails(CheckpointError, r"missing \(layer3\.0\.conv1\.weight, ", weights=str(tmp_path / "cut.safetensors"))


def test_a_layer_without_a_map_is_named(file: Path) -> None:
    ours = network(file)
    ours.network.spare = nn.Identity()
    ours.layers = ("layer1", "spare")
    with pytest.raises(ConfigError, match=r"perceptual\.layers: 'spare' is not run when the network sees an image"):
        ours(images())


def test_the_check_knows_settings_that_do_not_fit() -> None:
    def lines(**settings: object) -> str:
        return "\n".join(structure(settings, PerceptualConfig).misfits())

    assert lines(use="none") == ""
    assert "perceptual.layers: is a setting of features, and use is lpips" in lines(
        use="lpips", weights="http://x/a", layers=["a"]
    )
    missing = lines(use="features")
    assert "perceptual.network: the name" in missing and "perceptual.weights: path or URL" in missing
    assert "no file absent.pth; get them once" in lines(network="resnet18", weights="absent.pth")
    assert "two files: A,B" in lines(use="lpips")
    assert "1 weights for 2 layers" in lines(
        network="resnet18", weights="http://x/a", layers=["a", "b"], layer_weights=[1.0]
    )
    with pytest.raises(ConfigError, match="layer_weights: expected numbers above 0"):
        structure({"layer_weights": [1.0, 0.0]}, PerceptualConfig)
    with pytest.raises(ConfigError, match="use: expected one of none, lpips, features, got 'vgg'"):
        structure({"use": "vgg"}, PerceptualConfig)
    assert attrs.evolve(PerceptualConfig(), network="x").use == "features"


@pytest.mark.skipif(not TRAINED.exists(), reason="the trained network is not at hand")
def test_the_trained_network_gives_its_known_numbers() -> None:
    """Its data sheet tells the mean and the std of the last features of a known input."""
    from ldm_plugin_adversarial.perceptual.features import FeatureNetwork

    config = FeaturesConfig(network="tf_efficientnet_lite0", weights=str(TRAINED), layers=("bn2",))
    ours = FeatureNetwork(attrs.evolve(config, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    x = torch.sin(7 * torch.linspace(-1, 1, 3 * 224 * 224)).view(1, 3, 224, 224)
    features = ours(x)[0]  # (x + 1) / 2 and (x - 0.5) / 0.5 undo each other
    assert features.shape == (1, 1280, 7, 7)
    assert float(features.mean()) == pytest.approx(0.113267, abs=2e-5)
    assert float(features.std()) == pytest.approx(0.532609, abs=2e-5)
