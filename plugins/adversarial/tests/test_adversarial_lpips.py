"""LPIPS against the authors' own package, and its weights in every layout that is published."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm_core.errors import CheckpointError, LDMError
from ldm_core.nn.torchvision_operators import importable

LAYERS = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}


try:
    with importable():
        importlib.import_module("torchvision")
except ImportError:
    pytest.skip("torchvision is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """An LPIPS with random weights, heads that are not constant, and biases that are not zero."""
    pytest.importorskip("timm")
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    torch.manual_seed(0)
    result = LPIPS()
    for name, p in result.named_parameters():
        if name.startswith("lin"):
            p.copy_(torch.rand_like(p))
        elif name.endswith("bias"):
            p.copy_(0.1 * torch.randn_like(p))
    return result


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.rand((2, 3, 32, 48), generator=g) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("scaling_layer.")}


def test_state_keys_are_the_published_ones(model: nn.Module) -> None:
    expected = {f"net.slice{s}.{i}.{p}" for s, ids in LAYERS.items() for i in ids for p in ("weight", "bias")}
    expected |= {f"lin{i}.model.1.weight" for i in range(5)}
    expected |= {"scaling_layer.shift", "scaling_layer.scale"}
    assert set(model.state_dict()) == expected
    # VGG16 without its classifier has 14,714,688 weights, the heads one per tapped channel
    assert sum(p.numel() for p in model.parameters()) == 14_714_688 + 64 + 128 + 256 + 512 + 512


def test_distance_and_gradient_agree_with_the_lpips_package(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        oracle = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    oracle.load_state_dict(model.state_dict(), strict=False, assign=True)
    oracle.eval()

    x, y = images
    ours_y, their_y = y.clone().requires_grad_(), y.clone().requires_grad_()
    ours, theirs = model(x, ours_y), oracle(x, their_y)
    assert ours.shape == (2, 1, 1, 1)
    assert ours.min() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(ours_y.grad, their_y.grad, rtol=1e-4, atol=1e-6)


def test_distance_of_equal_images_is_zero(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    assert model(images[0], images[0]).abs().max() == 0


def test_train_changes_nothing_and_weights_stay_frozen(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    before = model(*images)
    parent = nn.ModuleList([model]).train()
    assert parent.training
    assert not any(m.training for m in model.modules())
    assert torch.equal(model(*images), before)
    assert not any(p.requires_grad for p in model.parameters())


def test_gradient_is_finite_where_no_channel_is_active(model: nn.Module) -> None:
    """The square root of a sum of squares has no derivative at zero: flat images must not give NaN."""
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    dead = LPIPS()
    dead.load_weights({k: (v * 0 - 1 if k.endswith("bias") else v * 0) for k, v in trained(model).items()})
    y = torch.zeros(1, 3, 16, 16, requires_grad=True)
    dead(torch.ones(1, 3, 16, 16), y).sum().backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all()


def test_grey_images_are_shown_as_rgb(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = (i[:, :1] for i in images)
    torch.testing.assert_close(model(x, y), model(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


def test_autocast_gives_float32_near_the_full_result(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    full = model(*images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(*images)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, rtol=0.05, atol=0)


@pytest.mark.parametrize("shape", [(1, 3, 15, 32), (1, 2, 32, 32), (3, 32, 32)])
def test_wrong_shapes_are_refused(model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        model(torch.zeros(shape), torch.zeros(shape))


def as_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"features." + k.split(".", 2)[2]: v for k, v in state.items() if k.startswith("net.")}


def heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k.startswith("lin")}


def layouts(state: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What is published: by CompVis, by the package (heads twice), inside an autoencoder, on torchvision's
    trunk."""
    yield "compvis", state
    yield "package", {**state, **{k.replace("lin", "lins.", 1): v for k, v in heads(state).items()}}
    yield "autoencoder", {f"loss.perceptual_loss.{k}": v for k, v in state.items()} | {"x": torch.zeros(1)}
    yield "torchvision", {**as_torchvision(state), **heads(state), "classifier.0.weight": torch.zeros(1)}


@pytest.mark.parametrize("layout", ["compvis", "package", "autoencoder", "torchvision"])
def test_every_published_layout_loads(model: nn.Module, tmp_path: Path, layout: str) -> None:
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    state = trained(model)
    file = tmp_path / "weights.safetensors"
    save_file({k: v.clone() for k, v in dict(layouts(state))[layout].items()}, file)
    loaded = LPIPS.from_weights(str(file)).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())


def test_trunk_and_heads_from_two_torch_files_by_url(model: nn.Module, tmp_path: Path) -> None:
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    state = trained(model)
    torch.save(as_torchvision(state), tmp_path / "vgg16.pth")
    torch.save({"state_dict": heads(state)}, tmp_path / "heads.pth")
    loaded = LPIPS.from_weights((tmp_path / "vgg16.pth").as_uri(), str(tmp_path / "heads.pth"))
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in state.items())


def test_the_packages_own_heads_load(model: nn.Module) -> None:
    lpips = pytest.importorskip("lpips")
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS, _read

    file = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    found = _read(str(file))
    mixed = LPIPS()
    mixed.load_weights({**trained(model), **found})
    assert (mixed.state_dict()["lin4.model.1.weight"] >= 0).all()  # learned under that constraint


def test_missing_and_misfitting_weights_are_named(model: nn.Module, tmp_path: Path) -> None:
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    state = trained(model)
    file = tmp_path / "trunk.safetensors"
    save_file(as_torchvision(state), file)
    with pytest.raises(CheckpointError, match=r"trunk\.safetensors: 5 of 31.*'lin0\.model\.1\.weight'.*heads"):
        LPIPS.from_weights(str(file))
    with pytest.raises(CheckpointError, match=r"26 of 31.*VGG16 trunk"):
        LPIPS().load_weights(heads(state))
    with pytest.raises(CheckpointError, match=r"net\.slice2\.5\.weight has shape \(1,\).*\(128, 64, 3, 3\)"):
        LPIPS().load_weights({**state, "net.slice2.5.weight": torch.zeros(1)})


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"page\.pth: is no file of tensors but a web page"):
        LPIPS.from_weights(str(tmp_path / "page.pth"))
    with pytest.raises(CheckpointError, match="no such file"):
        LPIPS.from_weights(str(tmp_path / "absent.pth"))


@contextmanager
def failing_import(error: Exception) -> Iterator[None]:
    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "timm":
                raise error

    kept = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "timm"}
    for name in kept:
        del sys.modules[name]
    finder = Finder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        sys.modules.update(kept)


@pytest.mark.parametrize(
    ("error", "fix"),
    [(ModuleNotFoundError("No module named 'timm'"), "pip install timm torchvision")],
)
def test_without_timm_the_message_says_what_to_install(error: Exception, fix: str) -> None:
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    with failing_import(error), pytest.raises(LDMError, match=fix):
        LPIPS()


def test_vgg16_needs_no_heads(tmp_path: Path) -> None:
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS
    from ldm_plugin_adversarial.perceptual.vgg16 import VGG16Features

    torch.manual_seed(0)
    whole = LPIPS()
    trunk = {k: v.contiguous() for k, v in whole.state_dict().items() if k.startswith("net.")}
    save_file(trunk, tmp_path / "vgg.safetensors")
    network = VGG16Features([str(tmp_path / "vgg.safetensors")])
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(network(x), whole.features(x)[4].mean((2, 3)))
    with pytest.raises(CheckpointError, match="the heads"):
        LPIPS.from_weights(str(tmp_path / "vgg.safetensors"))
    save_file({k: v for k, v in trunk.items() if "slice5" not in k}, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"6 of 26 tensors missing, first 'net\.slice5\.24\.weight'; a VGG16 is"):
        VGG16Features([str(tmp_path / "cut.safetensors")])
