"""Metrics that call the model, in an evaluation: the keys that the model reads, its classes, stages alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assembled import CATALOG, assembled
from evaluation_runs import evaluated, pictures, refused, trained
from evaluation_runs import own_caches as _own_caches  # noqa: F401
from ldm_plugin_metrics.evaluation.fitting import Fitting
from ldm_plugin_metrics.evaluation.measuring import Work
from ldm_plugin_metrics.evaluation.models import Drawing, Model, SampledPictures
from ldm_plugin_metrics.evaluation.pictures import DataPictures
from ldm_plugin_metrics.model.bound import Bound
from ldm_plugin_metrics.model.config import BoundConfig
from training_runs import TINY, go

from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.contracts import Pictures, Site
from ldm_core.contracts.streams import mix_seed
from ldm_core.data.collate import collate
from ldm_core.data.images import decode_image
from ldm_core.errors import ConfigError
from ldm_core.sampling.pipeline import Pipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("models") / "run")


def test_a_conditional_model_is_handed_what_it_reads(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "bound,codebook_use,nearest,ssim,class_accuracy"
    network = [f"class_accuracy.{each}" for each in ("network=resnet10t", "random_seed=1", "classes=64", "size=32")]
    found = evaluated(
        capsys,
        run,
        "--metrics",
        names,
        "--images",
        4,
        "--steps",
        2,
        "bound.levels=3",
        *network,
        "--out",
        tmp_path / "out",
    )
    bound, codes, nearest, ssim, classes = found["metrics"]
    assert [each["of"] for each in found["metrics"]] == ["data", "data", "samples", "reconstructions", "samples"]
    assert {"bound", "bound_prior", "bound_first", "rate@1", "rmse@1000"} <= set(bound["values"])
    assert 0 < codes["values"]["codebook_use"]["value"] <= 1
    assert nearest["against"] == "training" and nearest["values"]["memorised"]["value"] <= 1
    assert -1 <= ssim["values"]["ssim"]["value"] <= 1
    assert 0 <= classes["values"]["class_accuracy"]["value"] <= classes["values"]["class_accuracy_top5"]["value"] <= 1
    assert "random weights 1" in classes["label"]
    pipeline = Pipeline.load(str(run), catalog=CATALOG)
    size = pipeline.stage.codebook_size  # type: ignore[attr-defined]
    assert codes["values"]["codebook_perplexity"]["value"] <= size


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"use": "masked_image", "degradation": "boxes"}, "mask"),
        ({"use": "low_resolution", "factor": 2, "degradation": "bsr_light"}, "image"),
    ],
)
def test_the_bound_of_a_model_whose_inputs_are_made_of_pictures(
    row: dict[str, Any], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each held-out picture has one hole, or one small version, by its number alone: here it is made by hand."""
    data = pictures(tmp_path / "data", 6, seed=1)
    trainer = {**TINY["trainer"], "steps": 1}
    go(tmp_path / "run", conditioners=[row], dataset={"use": "folder", "url": str(data)}, trainer=trainer)
    arguments = [tmp_path / "run", "--metrics", "bound", "--images", 3, "--against", data, "bound.levels=3"]
    found = evaluated(capsys, *arguments, "--out", tmp_path / "out")["metrics"][0]["values"]
    pipeline = Pipeline.load(str(tmp_path / "run"), device="cpu")
    makes = pipeline.recipe.conditioners[0].degradation
    assert makes is not None
    made = CATALOG.get("degradation", makes.use)[0].component.load()(makes.config, Site(size=(16, 16)))
    held_out = [decode_image((data / f"{2 * place:05d}.png").read_bytes(), 3, "") for place in range(3)]
    inputs: dict[str, Any] = {"image": held_out}
    inputs[key] = [
        made.degrade(
            picture,
            (16, 16) if key == "mask" else (8, 8),
            np.random.default_rng(mix_seed(row["use"], mix_seed("degradation", 2 * place))),
        )
        for place, picture in enumerate(held_out)
    ]
    batch = collate([{key: values[i] for key, values in inputs.items()} for i in range(3)])
    metric = Bound(BoundConfig(levels=3), Site(size=(16, 16)))
    images = torch.from_numpy(np.stack(held_out))
    rows = metric.measure(Pictures(images, range(3), batch, pipeline=pipeline))
    expected = metric.values(metric.sums(rows), None)
    assert {name: each["value"] for name, each in found.items()} == pytest.approx(dict(expected), rel=1e-6)
    inputs[key] = inputs[key][::-1]
    batch = collate([{key: values[i] for key, values in inputs.items()} for i in range(3)])
    others = metric.measure(Pictures(images, range(3), batch, pipeline=pipeline))
    assert not np.allclose(others["divergence"], rows["divergence"], rtol=1e-4), "the input counts"


def test_lacking_inputs_are_told_by_the_keys_of_people(tmp_path: Path) -> None:
    rows = [{"use": "low_resolution", "factor": 2, "degradation": "bicubic"}, {"use": "class_label", "classes": 2}]
    pipeline = assembled(conditioners=rows)
    dataset = FolderDataset(FolderConfig(url=str(pictures(tmp_path / "data", 2))), Site(size=(16, 16)))
    inputs = DataPictures(dataset, Fitting((16, 16), 3, "crop", "bicubic"), name="inputs", what="the pictures")
    model = Model(pipeline.recipe, pipeline.stage, "", pipeline)
    with pytest.raises(ConfigError, match=r"reads 'class_label', and the pictures offers image, name$"):
        SampledPictures(model, Drawing(count=2), inputs)


def test_a_first_stage_alone_has_codes_and_no_bound(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(run.rglob("first_stage.safetensors"))
    data = pictures(tmp_path / "data", 3)
    arguments = [file, "--against", data, "--image-size", 16, "--out", tmp_path / "out"]
    found = evaluated(capsys, *arguments, "--metrics", "codebook_use")
    assert 0 < found["metrics"][0]["values"]["codebook_use"]["value"] <= 1
    assert "a first stage alone has no levels" in refused(capsys, *arguments, "--metrics", "bound")


def test_data_of_other_classes_are_refused(run: Path) -> None:
    from types import SimpleNamespace

    import attrs

    class Named(DataPictures):
        def __init__(self, names: list[str]) -> None:
            self.name, self.keys, self._names = "data", {"class_label": "value"}, names

        @property
        def class_names(self) -> dict[str, list[str]]:
            return {"class_label": self._names}

    metric: Any = SimpleNamespace(name="bound", config=SimpleNamespace(needs_pipeline=True, reads=()))
    pipeline: Any = SimpleNamespace(reads=("class_label", "target_size"), class_names={"class_label": ["cat", "dog"]})
    work = Work(Named(["cat", "dog"]), {}, {"": metric}, pipeline)
    work.check()
    assert work.keys == ["class_label"]
    with pytest.raises(ConfigError, match="classes of 'class_label' are others"):
        attrs.evolve(work, pictures=Named(["dog", "cat"])).check()
