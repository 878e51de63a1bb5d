"""Guides in whole runs: composed with cfg, from threads, in little memory, on the command line; what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_image_guiding.config import KnownPixelsTargetConfig
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts.configs import GuidanceConfig, of
from ldm_core.data.collate import to_images
from ldm_core.errors import ConfigError, DataError, LDMError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.diffusion import make_predict
from ldm_core.recipe import artifacts
from ldm_core.recipe.check import check
from ldm_core.recipe.recipe import versions
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.run import conditions_of
from ldm_core.testing.base import randomize

SIZE = (16, 24)
STAGE: dict[str, Any] = {
    "use": "kl_ae", "channels": 8, "channel_mult": [1, 2], "z_channels": 3, "res_blocks": 1, "norm_groups": 4,
    "mid_attention": False,
}  # fmt: skip
TINY: dict[str, Any] = {
    "image_size": list(SIZE),
    "first_stage": STAGE,
    "denoiser": {
        "use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
        "norm_groups": 4,
    },
    "conditioners": [{"use": "class_label", "classes": 3, "width": 8, "dropout": 0.1}],
    "guidance": {"use": "cfg", "scale": 2.0},
    "sampler": "ddim",
    "sample": {"steps": 4, "images": 2},
}  # fmt: skip
DRAW: Mapping[str, Any] = {"seed": [1, 2]}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


@pytest.fixture(scope="module")
def pipeline(catalog: Catalog) -> Pipeline:
    return pipeline_of(catalog)


def pipeline_of(catalog: Catalog, plain: Mapping[str, Any] = TINY) -> Pipeline:
    recipe = resolve(plain, catalog)
    stage: Any = make_first_stage(recipe, catalog)
    model = make_model(recipe, catalog, stage)
    randomize(model, 5)
    randomize(stage, 6)
    return Pipeline(recipe, stage.requires_grad_(False).eval(), model.requires_grad_(False), catalog)


def photo(size: tuple[int, int] = SIZE) -> Any:
    rows, columns = np.mgrid[: size[0], : size[1]]
    shades = np.stack([rows * 255 // size[0], columns * 255 // size[1], (rows + columns) * 3])
    return shades.astype(np.uint8)


def mask() -> Any:
    found = np.zeros(SIZE, dtype=bool)
    found[4:10, 6:18] = True
    return found


INPUTS: Mapping[str, Any] = {"class_label": 1, "image": photo(), "mask": mask()}


def test_without_guides_nothing_changes(pipeline: Pipeline) -> None:
    """No key in the recipe, no bit in the samples; and none after guides were taken off."""
    assert "guides" not in pipeline.recipe.plain() and not pipeline.recipe.guides
    plain = pipeline.sample(inputs={"class_label": 1}, **DRAW)
    guided = pipeline.with_settings(["guides=[blend]"])
    assert guided.recipe.identity() == pipeline.recipe.identity()
    assert "guides" in guided.recipe.plain() and guided.reads == ("class_label", "image", "mask")
    off = guided.with_settings(["guides=[]"]).sample(inputs={"class_label": 1}, **DRAW)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(plain, off, strict=True))
    assert "guides" not in off[0].metadata


def test_a_recipe_with_guides_comes_back(pipeline: Pipeline, catalog: Catalog) -> None:
    guided = pipeline.with_settings({"guides": {"known_pixels_target": {"iterations": 1}, "blend": {}}})
    plain = guided.recipe.plain()
    assert [row["use"] for row in plain["guides"]] == ["known_pixels_target", "blend"]
    assert resolve(plain, catalog) == guided.recipe
    again = guided.with_settings(["guides.known_pixels_target.deviation=0.2"]).recipe.guides
    assert (again[0].config.iterations, again[0].config.deviation, again[1].use) == (1, 0.2, "blend")
    assert [part.use for part in guided.with_settings({"guides": {"blend": None}}).recipe.guides] == [
        "known_pixels_target"
    ]


@pytest.mark.parametrize("space", ["latents", "pixels"])
def test_blended_pixels_come_back_exactly(pipeline: Pipeline, space: str) -> None:
    guided = pipeline.with_settings({"guides": {"blend": {"space": space}}})
    made = guided.sample(inputs=dict(INPUTS), **DRAW)
    for one in made:
        assert np.array_equal(one.image[:, ~mask()], photo()[:, ~mask()])
        assert (one.metadata["guides"], one.metadata["paste_known"]) == ("blend", "true")
        assert one.metadata["image"].startswith("picture, 3x16x24; sha256")
    assert not np.array_equal(made[0].image[:, mask()], made[1].image[:, mask()]), "two fills differ"


def test_composition_with_cfg_is_that_by_hand(pipeline: Pipeline) -> None:
    """The correction of the guided estimate, its gradient through both branches."""
    scale, deviation = 2.0, 0.3
    guided = pipeline.with_settings(
        {"guides": {"known_pixels_target": {"step": "published", "deviation": deviation, "strength": 0.5}}}
    )
    parts = guided._parts(guided.recipe)
    batch = {
        "class_label": torch.tensor([1]),
        "image": to_images(photo()[None]),
        "mask": torch.from_numpy(mask())[None],
    }
    model, stage = pipeline.model, pipeline.stage
    conditions = conditions_of(model, batch)
    x = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([400.0], dtype=torch.float64)
    found = parts.guidance.guide(make_predict(model), x, t, conditions, model.schedule).x0
    assert not found.requires_grad

    leaf = x.clone().requires_grad_()
    null, cond = (model(leaf, t, bundle).x0 for bundle in (conditions.null, conditions.cond))
    x0 = null + scale * (cond - null)
    error = (stage.decode(x0) - batch["image"]) * ~batch["mask"][:, None]
    (gradient,) = torch.autograd.grad(error.square().sum() / (2 * deviation**2), leaf)
    alpha, sigma = float(model.schedule.alpha(t)), float(model.schedule.sigma(t))
    want = x0.detach() - 0.5 * sigma**2 / alpha * gradient
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4)


def test_a_guide_is_handed_the_estimate_so_far(pipeline: Pipeline) -> None:
    """`blend` outside keeps what is known whatever the target within does; other bundles are the model's."""
    guided = pipeline.with_settings({"guides": {"known_pixels_target": {}, "blend": {}}})
    parts = guided._parts(guided.recipe)
    assert [*parts.guidances] == ["cfg", "known_pixels_target", "blend"]
    made = guided.sample(inputs=dict(INPUTS), **DRAW)
    alone = pipeline.with_settings({"guides": {"blend": {}}}).sample(inputs=dict(INPUTS), **DRAW)
    assert np.array_equal(made[0].image[:, ~mask()], photo()[:, ~mask()])
    assert not np.array_equal(made[0].image, alone[0].image)


def test_scale_and_negative_are_those_of_the_guidance(pipeline: Pipeline) -> None:
    guided = pipeline.with_settings({"guides": ["blend"]})
    made = [guided.sample(inputs=dict(INPUTS), guidance=scale, **DRAW)[0].image for scale in (1.0, 4.0)]
    away = guided.sample(inputs=dict(INPUTS), negative={"class_label": 2}, **DRAW)[0].image
    assert not np.array_equal(made[0], made[1]) and not np.array_equal(
        away, guided.sample(inputs=dict(INPUTS), **DRAW)[0].image
    )


def test_a_small_picture_is_come_closer_to(pipeline: Pipeline) -> None:
    small = photo()[:, ::4, ::4]
    wanted = to_images(small[None])

    def error(settings: Any) -> float:
        made = pipeline.with_settings(settings).sample(
            inputs={"class_label": 1, **({"image": small} if settings["guides"] else {})}, steps=8, **DRAW
        )
        shown = torch.nn.functional.interpolate(
            to_images(made[0].image[None]), (4, 6), mode="bicubic", antialias=True, align_corners=False
        )
        return float((shown - wanted).square().mean())

    guided = error({"guides": {"low_resolution_target": {"deviation": 0.02}}})
    assert guided < 0.5 * error({"guides": []})


def test_threads_do_not_meet(pipeline: Pipeline) -> None:
    """Two runs at once, of other pictures, have the bits of each alone."""
    guided = pipeline.with_settings({"guides": {"known_pixels_target": {"iterations": 1}, "blend": {}}})
    rows = [dict(INPUTS), {"class_label": 2, "image": photo()[:, ::-1].copy(), "mask": mask()[:, ::-1].copy()}]

    def draw(row: Mapping[str, Any]) -> list[Any]:
        return [one.image for one in guided.sample(inputs=row, **DRAW)]

    alone = [draw(row) for row in rows]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(draw, rows))
    assert all(
        np.array_equal(a, b) for one, other in zip(alone, found, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_gradients_keep_little(pipeline: Pipeline) -> None:
    """Bytes that the backward pass of an estimate's picture waits for, with blocks run again and without; the same
    gradient."""
    from contextlib import nullcontext

    from ldm_core.nn.recompute import in_little_memory

    site = pipeline._site
    assert site.decode is not None
    x = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    t, cond = torch.tensor([400.0], dtype=torch.float64), pipeline.model.encode({"class_label": torch.tensor([1])})
    merged, kept, gradients = pipeline.model.merged(cond), [], []
    for context in (nullcontext(), in_little_memory()):
        held: dict[int, int] = {}

        def pack(value: Tensor, held: dict[int, int] = held) -> Tensor:
            held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        leaf = x.clone().requires_grad_()
        with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            picture = site.decode(pipeline.model(leaf, t, merged).x0)
        gradients.append(torch.autograd.grad(picture.square().sum(), leaf)[0])
        kept.append(sum(held.values()))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    assert kept[1] < 0.6 * kept[0], kept


@pytest.mark.parametrize(
    ("guides", "inputs", "message"),
    [
        ("blend", {"image": photo()}, "this model needs a mask \\(key 'mask', read by guidance 'blend'"),
        ("blend", {"image": photo(), "mask": np.zeros(SIZE)}, "'mask' of image 0: the mask has no hole"),
        ("blend", {"image": photo(), "mask": np.ones(SIZE)}, "'mask' of image 0: the mask is one hole"),
        ("blend", {"image": photo(), "mask": np.ones((8, 8))}, "the mask is \\(8, 8\\) and its picture \\(16, 24\\)"),
        ("blend", {"image": photo((8, 8)), "mask": mask()}, "'image': expected pictures \\(3, 16, 24\\)"),
        ("low_resolution_target", {"image": photo()}, "'image': expected pictures \\(3, 4, 6\\)"),
        ("known_pixels_target", {"image": photo(), "mask": mask(), "boxes": [[0, 0, 1, 1]]}, "reads 'boxes'"),
    ],
)
def test_inputs_that_are_refused(pipeline: Pipeline, guides: str, inputs: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pipeline.with_settings({"guides": [guides]}).sample(inputs={"class_label": 1, **inputs}, **DRAW)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guides": ["blend", "blend"]}, "'blend' is there twice"),
        ({"guides": {"blend": None}}, r"guides\.blend: there is none"),
        ({"guides": {"blend": 3}}, r"guides\.blend: expected its settings"),
        ({"guides": {"blond": {}}}, "blond"),
        ({"guides": {"low_resolution_target": {"factor": 5}}}, "factor 5 does not divide the image size"),
        ({"guides": ["perceptual_target"]}, "weights: the weights of tf_efficientnet_lite0 are not named"),
        ({"guides": {"blend": {"space": "words"}}}, "expected one of latents, pixels"),
    ],
)
def test_settings_that_are_refused(pipeline: Pipeline, settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(LDMError, match=message):
        pipeline.with_settings(settings)


def test_a_sampler_of_holes_goes_with_a_guide_that_knows_pixels(pipeline: Pipeline) -> None:
    for guide in ("blend", "known_pixels_target"):
        made = pipeline.with_settings({"sampler": "repaint", "guides": [guide]})
        with pytest.raises(ConfigError, match="sampler 'repaint' requires 'known_pixels'"):
            made.with_settings({"guides": []})


def test_a_training_names_none(catalog: Catalog) -> None:
    with pytest.raises(
        ConfigError, match="guidance 'blend' reads 'image' of each sampled image; name it when sampling"
    ):
        check(resolve({**TINY, "guides": ["blend"]}, catalog))


def test_configs_answer_what_they_read() -> None:
    assert of(GuidanceConfig, KnownPixelsTargetConfig()).reads == ("image", "mask")
    assert of(GuidanceConfig, KnownPixelsTargetConfig()).needs_null is False


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of a small timm network with 5 classes."""
    from ldm_plugin_adversarial.perceptual.networks import imported_timm

    file = tmp_path_factory.mktemp("network") / "weights.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = imported_timm().create_model("mobilenetv3_small_050", pretrained=False, num_classes=5)
    save_file(made.state_dict(), file)
    return str(file)


def test_a_classifier_and_a_perceptual_distance_steer(pipeline: Pipeline, network: str) -> None:
    named = {"network": "mobilenetv3_small_050", "weights": network}
    plain = pipeline.sample(inputs={"class_label": 1}, **DRAW)[0].image
    by_class = pipeline.with_settings({"guides": {"classifier_target": {**named, "size": 32, "iterations": 1}}})
    assert len(by_class.recipe.guides[0].config.weights_sha256) == 64
    assert "weights_sha256" in by_class.sample(inputs={"class_label": 1}, **DRAW)[0].metadata["recipe"]
    assert not np.array_equal(by_class.sample(inputs={"class_label": 1}, **DRAW)[0].image, plain)
    near = pipeline.with_settings({"guides": {"perceptual_target": {**named, "size": 32, "iterations": 1}}})
    assert not np.array_equal(near.sample(inputs={"class_label": 1, "image": photo()}, **DRAW)[0].image, plain)


def test_weights_that_do_not_fit(pipeline: Pipeline, network: str, tmp_path: Path) -> None:
    def refused(**settings: Any) -> str:
        with pytest.raises(LDMError) as caught:
            pipeline.with_settings({"guides": {"classifier_target": settings}}).sample(
                inputs={"class_label": 1}, steps=1, **DRAW
            )
        return str(caught.value)

    assert "timm has no network 'mobilnet'" in refused(network="mobilnet", weights=network)
    assert "does not fit timm's mobilenetv3_small_075" in refused(network="mobilenetv3_small_075", weights=network)
    assert "there is no class 1; the classifier has 1" in refused(
        network="mobilenetv3_small_050", weights=one_class(tmp_path)
    )
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert refused(network="mobilenetv3_small_050", weights=str(tmp_path / "broken.safetensors"))


def one_class(folder: Path) -> str:
    from ldm_plugin_adversarial.perceptual.networks import imported_timm

    file = folder / "one.safetensors"
    save_file(imported_timm().create_model("mobilenetv3_small_050", num_classes=1).state_dict(), file)
    return str(file)


# ---------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def run(pipeline: Pipeline, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, recipe = tmp_path_factory.mktemp("run"), pipeline.recipe
    stage: Any = pipeline.stage
    own = {key: value for key, value in recipe.first_stage.plain().items() if key != "use"}
    meta = artifacts.metadata("first_stage", "kl_ae", own, {})
    save_file(dict(stage.state_dict()), folder / artifacts.STAGE_FILE, metadata=meta)
    hashed = artifacts.sha256(str(folder / artifacts.STAGE_FILE))
    meta = artifacts.metadata("model", "unet", recipe.carried(), versions(recipe, catalog), first_stage_sha256=hashed)
    save_file(dict(pipeline.model.state_dict()), folder / artifacts.MODEL_FILE, metadata=meta)
    return folder


def test_on_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.moveaxis(photo(), 0, 2)).save(tmp_path / "photo.png")
    Image.fromarray(mask().astype(np.uint8) * 255).save(tmp_path / "mask.png")
    words = ["sample", str(run), "--class", "1", "--image", str(tmp_path / "photo.png"), "--quiet", "--images", "2"]
    assert main([*words, "--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "out")]) == 0
    for name in sorted(p.name for p in (tmp_path / "out").glob("0*.png")):
        made = np.moveaxis(np.asarray(Image.open(tmp_path / "out" / name)), 2, 0)
        assert np.array_equal(made[:, ~mask()], photo()[:, ~mask()])
    target = ["guides=[known_pixels_target,blend]", "guides.known_pixels_target.iterations=1"]
    more = ["--mask", str(tmp_path / "mask.png"), "--sampler", "repaint", "sampler.resamples=2", "sampler.jump=2"]
    assert main([*words, *more, *target, "--out", str(tmp_path / "two")]) == 0
    for name, guides in {"alone": [], "named": ["guides=[blend]"]}.items():  # a mask brings what repaint asks for
        assert main([*words, *more, *guides, "--out", str(tmp_path / name)]) == 0
    alone, named = ((tmp_path / name / "grid.png").read_bytes() for name in ("alone", "named"))
    assert alone == named != (tmp_path / "out" / "grid.png").read_bytes()
    assert main([*words, "guides=[blend]", "--out", str(tmp_path / "none")]) == 2
    assert "this model needs a mask (key 'mask', read by guidance 'blend'" in capsys.readouterr().err
    assert main(["sample", str(run), "guides=[blend]", "--help-inputs"]) == 0
    assert "read by 'blend'" in capsys.readouterr().out
