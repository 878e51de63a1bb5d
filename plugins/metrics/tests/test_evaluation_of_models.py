"""Metrics that call the model, in an evaluation: the keys that the model reads, its classes, stages alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_runs import evaluated, pictures, refused, trained
from ldm_plugin_metrics.evaluation.measuring import Work

from ldm_core.catalog import Catalog
from ldm_core.sampling.pipeline import Pipeline


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache" / "weights"))


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
    pipeline = Pipeline.load(str(run), catalog=Catalog.discover())
    size = pipeline.stage.codebook_size  # type: ignore[attr-defined]
    assert codes["values"]["codebook_perplexity"]["value"] <= size


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
    from ldm_plugin_metrics.evaluation.pictures import DataPictures

    from ldm_core.errors import ConfigError

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
