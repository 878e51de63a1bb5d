"""Pictures that the figures of the tasks are of: data by place, samples of a run; and their records.

What the command ``ldm-run evaluate`` does for one metric is done here for several judges over one set of samples: the
same rows, seeds, inputs and files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from ldm_plugin_metrics.evaluation.fitting import Fitting
from ldm_plugin_metrics.evaluation.models import Drawing, Model, SampledPictures
from ldm_plugin_metrics.evaluation.pictures import DataPictures
from ldm_plugin_metrics.evaluation.places import Opener, Run
from numpy.typing import NDArray

from ldm_core.catalog import Catalog
from ldm_core.data.collate import collate
from ldm_core.sampling import load as load_
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.weights.open import Wanted

BATCH = 64
EFFICIENTNET = "tf_efficientnet_lite0"


def data(place: str, size: tuple[int, int] | None, settings: Sequence[str] = (), channels: int = 3) -> DataPictures:
    """The pictures of a data set at a place; `settings` are its own, such as ``split=val``."""
    opener = Opener(Catalog.discover(), Fitting(size, channels))
    found = opener.pictures(place, [f"against.{line}" for line in settings], name="reference")
    assert isinstance(found, DataPictures)
    return found


def model(place: str, settings: Sequence[str] = (), size: tuple[int, int] | None = None) -> Model:
    """A trained run, at another size than its own if one is given; `settings` are of the sampling."""
    catalog = Catalog.discover()
    wanted = Wanted.of([f"image_size=[{size[0]},{size[1]}]"]) if size else None
    loaded = load_.load(place, catalog, wanted, device="cuda" if torch.cuda.is_available() else "cpu")
    pipeline = Pipeline.of(loaded)
    if settings:
        pipeline = pipeline.with_settings(list(settings))
    return Model(pipeline.recipe, loaded.stage, loaded.first_stage, pipeline)


def own_data(place: str, found: Model, settings: Sequence[str] = ()) -> DataPictures:
    """The held-out pictures of a run's data, or those that `settings` choose (``split=train``), at the model's size."""
    run = Run.of(place, asked=True)
    if run is None:
        raise SystemExit(f"{place}: no folder of a run, with its recipe")
    fitting = Fitting(found.recipe.image_size, found.recipe.image_channels)
    return Opener(Catalog.discover(), fitting).held_out(run, [f"against.{line}" for line in settings])


def samples(found: Model, inputs: DataPictures | None, count: int, keep: str, seed: int = 0) -> SampledPictures:
    """`count` samples with the inputs of examples of `inputs`, kept in the folder `keep`."""
    return SampledPictures(found, Drawing(count=count, seed=seed, batch=32), inputs, keep)


def batches(pictures: Any, keys: Sequence[str] = ()) -> Iterator[tuple[range, Any]]:
    """The places of a set, and what is taken of them, a batch at a time."""
    for start in range(0, len(pictures), BATCH):
        places = range(start, min(start + BATCH, len(pictures)))
        yield places, pictures.take(places, keys)


def images_of(pictures: Any) -> NDArray[np.uint8]:
    """All pictures of a set (N, c, H, W)."""
    return np.concatenate([taken.images for _, taken in batches(pictures)])


def judged(metric: Any, pictures: Any) -> dict[str, NDArray[Any]]:
    """The rows of a metric of all pictures of a set."""
    from ldm_core.contracts import Pictures

    rows: list[Mapping[str, NDArray[Any]]] = []
    for places, taken in batches(pictures, metric.config.reads):
        made = collate([{key: each[key] for key in metric.config.reads} for each in taken.examples])
        rows.append(metric.measure(Pictures(torch.from_numpy(taken.images), places, made)))
    return {name: np.concatenate([np.asarray(row[name]) for row in rows]) for name in rows[0]}


def network(weights: str, layer: str = "", size: int | None = None, name: str = EFFICIENTNET) -> Any:
    """A network of timm with its weights, as the metrics have it."""
    from ldm_plugin_metrics.distances.config import FDConfig
    from ldm_plugin_metrics.networks.build import build

    return build(FDConfig(network=name, weights=weights, layer=layer, size=size))


def features(of: Any, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features (N, D) of pictures (N, c, H, W)."""
    from ldm_core.contracts import Pictures

    parts = [torch.from_numpy(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return np.concatenate([of.rows(Pictures(part), of.main) for part in parts]).astype(np.float64)


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The Fréchet distance of two sets of features (N, D). Few rows for their width bias it upwards."""
    from ldm_core.training.first_stage.frechet import frechet_distance

    return float(frechet_distance(torch.from_numpy(a), torch.from_numpy(b)))


def sha256(path: str) -> str:
    """The hash of a file, or of the file of weights in a run's folder."""
    file = Path(path)
    file = file / "model.safetensors" if file.is_dir() else file
    return hashlib.sha256(file.read_bytes()).hexdigest()


def record(out: str, document: Mapping[str, Any], rows: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """Write the JSON with its figures, and print them as a Markdown table: a line a row, a column a figure."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    whole = {**document, "figures": {name: dict(values) for name, values in rows}}
    Path(out).write_text(json.dumps(whole, indent=1, default=str) + "\n")
    columns = list(dict.fromkeys(key for _, values in rows for key in values))
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, values in rows:
        cells = [f"{values[key]:.4g}" if key in values else "" for key in columns]
        print(f"| {name} | {' | '.join(cells)} |")
    print(out)


def about(pictures: Any) -> dict[str, Any]:
    """What a set says of itself, without versions."""
    told = {key: value for key, value in pictures.about().items() if key != "versions"}
    return {key: attrs.asdict(value) if attrs.has(type(value)) else value for key, value in told.items()}
