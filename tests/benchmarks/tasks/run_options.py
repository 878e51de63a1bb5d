"""Options that the scripts of this folder have in common: a run, its sampling, its pictures, and the record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import attrs
import task_sets
from ldm_plugin_metrics.evaluation.models import Model, SampledPictures
from ldm_plugin_metrics.evaluation.pictures import DataPictures

EFFICIENTNET = Path(__file__).resolve().parents[4] / "shared" / "data" / "efficientnet_lite0"
"""The folder with the weights of EfficientNet-Lite0, beside the project."""


@attrs.frozen
class Asked:
    """The parts that a script asks for, beside the run: a judge, weights of EfficientNet-Lite0, sizes."""

    text: str
    judge: bool = False
    weights: bool = False
    more: tuple[tuple[str, dict[str, Any]], ...] = ()


class Options(argparse.Namespace):
    """The answers, and the sets that follow from them."""

    def sets(self, size: tuple[int, int] | None = None, settings: list[str] | None = None) -> tuple[Any, ...]:
        """The model, the pictures with its inputs, and as many samples as were asked for (none: one a picture)."""
        found: Model = task_sets.model(self.run, self.set, size)
        chosen = self.pictures if settings is None else settings
        inputs: DataPictures = task_sets.own_data(self.run, found, chosen)
        keep = str(Path(self.out).with_suffix("")) + "_samples"
        made: SampledPictures = task_sets.samples(found, inputs, self.count or len(inputs), keep, self.seed)
        return found, inputs, made


def asked(parts: Asked) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=parts.text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--out", required=True, help="the record, .json; samples are kept beside it")
    parser.add_argument("--count", type=int, default=0, help="samples; 0: one for each held-out picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the sampling, such as guidance.scale=3")
    parser.add_argument(
        "--pictures", nargs="*", default=[], help="another choice of the run's data, such as split=test"
    )
    if parts.judge:
        parser.add_argument("--judge", required=True, help="of train_judge.py")
    if parts.weights:
        default = EFFICIENTNET / "tf_efficientnet_lite0.safetensors"
        parser.add_argument("--weights", default=str(default), help="of EfficientNet-Lite0")
    for name, how in parts.more:
        parser.add_argument(name, **how)
    return parser.parse_args(namespace=Options())
