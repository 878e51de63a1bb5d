"""Parts that choose their arithmetic: each runs in what it allows, in training, in sampling and in decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import yaml
from ldm_contract_plugin.optional.config import LoudStageConfig
from ldm_contract_plugin.optional.loud import LoudClass, LoudStage
from ldm_contract_plugin.optional.position_table import PositionTable
from one_thread import each_test as _one_thread  # noqa: F401
from together import together
from training_runs import TINY, go

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.errors import ConfigError
from ldm_core.model.build import make_first_stage, make_model, sampling_site
from ldm_core.recipe.check import check, misfits, model_misfits
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.result import Sampled

LOUD: dict[str, Any] = {
    "first_stage": "loud_stage",
    "conditioners": [{"use": "loud_class", "dropout": 0.2}],
    "denoiser": {"use": "position_table", "rows": 16, "width": 8},
    "trainer": {**TINY["trainer"], "steps": 3, "precision": "bf16", "validate_images": 4, "preview_every": 2},
}
NARROW = {**LOUD, "denoiser": {"use": "bf16_table", "rows": 16, "width": 8}}


@pytest.fixture()
def met(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Any]]:
    """The arithmetic that each part's methods were called in: None = float32."""
    seen: dict[str, set[Any]] = {}

    def watched(cls: type, method: str) -> None:
        plain = getattr(cls, method)

        def call(self: Any, *given: Any, **more: Any) -> Any:
            on = torch.is_autocast_enabled("cpu")
            seen.setdefault(f"{cls.__name__}.{method}", set()).add(torch.get_autocast_dtype("cpu") if on else None)
            return plain(self, *given, **more)

        monkeypatch.setattr(cls, method, call)

    for cls, method in ((LoudClass, "encode"), (LoudClass, "null"), (LoudStage, "encode_moments"),
                        (LoudStage, "decode"), (PositionTable, "forward")):  # fmt: skip
        watched(cls, method)
    return seen


def recipe_of(**changes: Any) -> Recipe:
    return resolve({**TINY, **LOUD, **changes}, Catalog.discover())


def test_each_part_is_trained_in_what_it_allows(tmp_path: Path, met: dict[str, set[Any]]) -> None:
    watch = go(tmp_path / "run", **LOUD)
    assert np.isfinite(watch.losses["denoiser"]).all()
    assert "denoiser: conditioner 'loud_class' runs in fp32; its config allows no bf16" in watch.messages
    previews_and_samples = {None}  # of a model as it is loaded, in float32
    assert met.pop("PositionTable.forward") == {torch.bfloat16} | previews_and_samples
    assert met == {name: {None} for name in ("LoudClass.encode", "LoudClass.null", "LoudStage.encode_moments",
                                             "LoudStage.decode")}  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_each_part_samples_in_what_it_allows(tmp_path: Path, met: dict[str, set[Any]], precision: Any) -> None:
    """By the command line, from Python, and from two threads at once."""
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump({**TINY, **LOUD}))
    assert main(["--recipe", str(recipe), "--out", str(out)]) == 0
    met.clear()
    sample = ["sample", str(out), "--class", "1", "--steps", "2", "--images", "1", "--precision", precision]
    assert main([*sample, "--out", str(tmp_path / "made")]) == 0
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert met["PositionTable.forward"] == {dtype}
    assert met["LoudClass.encode"] == met["LoudClass.null"] == met["LoudStage.decode"] == {None}

    low, full = (Pipeline.load(str(out), device="cpu", precision=p) for p in (precision, "fp32"))
    batch = {"class_label": torch.tensor([0, 1, 2])}
    for a, b in zip(low.model.encode(batch).values(), full.model.encode(batch).values(), strict=True):
        assert a.vector is not None and b.vector is not None
        assert torch.equal(a.vector, b.vector), "rounded on the way"
    met.clear()
    z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(low.decode(z), full.decode(z)) and met["LoudStage.decode"] == {None}

    def draw() -> list[Sampled]:
        return low.sample(inputs=[{"class_label": 1}, {"class_label": 4}], seed=3, steps=2)

    alone = draw()
    for made in together([draw, draw]):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(alone, made, strict=True))


def test_a_stage_that_says_nothing_keeps_out_of_fp16_alone(met: dict[str, set[Any]]) -> None:
    """The stage inside a conditioner runs in the arithmetic around it, where its config allows that."""
    for named, expected in (((), {"fp16": None, "bf16": torch.bfloat16}), (("fp32",), {"fp16": None, "bf16": None}),
                            (("fp32", "bf16", "fp16"), {"fp16": torch.float16, "bf16": torch.bfloat16})):  # fmt: skip
        config = attrs.make_class("Said", [], bases=(LoudStageConfig,), frozen=True, kw_only=True,
                                  class_body={"precisions": named})()  # fmt: skip
        recipe = recipe_of()
        recipe = attrs.evolve(recipe, first_stage=attrs.evolve(recipe.first_stage, config=config))
        site = sampling_site(recipe, make_first_stage(recipe, Catalog.discover()))
        assert site.encode is not None and site.decode is not None
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            met.clear()
            with torch.autocast("cpu", dtype=dtype):
                site.decode(site.encode(torch.zeros(1, 3, 8, 8)))
            assert met["LoudStage.encode_moments"] == met["LoudStage.decode"] == {expected[name]}, (named, name)


def test_a_stage_that_leaves_fp32_out_is_refused() -> None:
    recipe = recipe_of()
    for named, refused in ((("bf16", "fp16"), True), (("bf16", "fp32"), False), ((), False)):
        config = attrs.make_class("Said", [], bases=(LoudStageConfig,), frozen=True, kw_only=True,
                                  class_body={"precisions": named})()  # fmt: skip
        changed = attrs.evolve(recipe, first_stage=attrs.evolve(recipe.first_stage, config=config))
        for lines in (list(misfits(changed)), list(model_misfits(changed))):
            told = [line for line in lines if "in `precisions`" in line]
            assert len(told) == refused, lines
            assert not told or told[0].startswith(
                "first_stage 'loud_stage': its config names bf16 and fp16 alone in `precisions`, and every first stage "
                "runs in fp32"
            )


def test_a_network_is_not_trained_in_what_it_does_not_allow() -> None:
    check(resolve({**TINY, **NARROW}, Catalog.discover()))
    with pytest.raises(ConfigError) as caught:
        check(resolve({**TINY, **NARROW, "trainer": {**LOUD["trainer"], "precision": "fp32"}}, Catalog.discover()))
    assert str(caught.value) == (
        "trainer.precision: fp32, and denoiser 'bf16_table' runs in bf16 alone; set trainer.precision=bf16"
    )
    with pytest.raises(
        ConfigError, match=r"first_stage_trainer.precision: bf16, and first_stage 'loud_stage' runs in fp32"
    ):
        check(recipe_of(first_stage_trainer={**TINY["first_stage_trainer"], "precision": "bf16"}))


def test_a_network_of_one_precision_runs_in_it_unless_another_one_is_asked_for(
    tmp_path: Path, met: dict[str, set[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path / "run", **NARROW)
    assert met["PositionTable.forward"] == {torch.bfloat16}, "previews, validation and samples too"
    assert ldm_core.load(str(tmp_path / "run"), device="cpu").model.precision == "bf16"
    with pytest.raises(ConfigError, match=r"fp16, and denoiser 'bf16_table' .* runs in bf16 alone"):
        Pipeline.load(str(tmp_path / "run"), device="cpu", precision="fp16")
    assert main(["sample", str(tmp_path / "run"), "--class", "1", "--precision", "fp16"]) == 2
    assert "--precision: fp16, and denoiser 'bf16_table'" in " ".join(capsys.readouterr().err.split())


def test_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "loud_class"]) == 0
    assert "Runs in fp32 alone." in capsys.readouterr().out
    assert main(["show", "loud_class", "--json"]) == 0
    assert '"precisions": [' in capsys.readouterr().out
    assert main(["show", "unet", "--json"]) == 0
    assert "precisions" not in capsys.readouterr().out


def test_a_model_without_a_recipe_runs_as_before() -> None:
    catalog = Catalog.discover()
    recipe = recipe_of()
    model = make_model(recipe, catalog, make_first_stage(recipe, catalog))
    model.precision, model.precisions = "bf16", {}
    with model.autocast(), model.autocast("conditioners.loud_class"):
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
