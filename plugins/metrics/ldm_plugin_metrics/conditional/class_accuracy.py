"""The accuracy of a classifier on samples of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_metrics.conditional.config import ClassAccuracyConfig
from ldm_plugin_metrics.means import MeanMetric
from ldm_plugin_metrics.networks.timm_network import TimmNetwork, classes_of

TOP = 5


class ClassAccuracy(MeanMetric, nn.Module):
    """The share of pictures for which a given classifier's first choice is their class, and the share with the class
    among its first five (all pictures, where it has five outputs or fewer).

    The classifier is a timm network with the weights of its head. Output i is class i of the data, or `outputs` names
    the output of each class. Pictures are scaled whole to the classifier's size, as for features; equal scores count
    against the class. A figure depends on the classifier: measure it on real pictures too (`subject` data), for the
    highest that a model can be expected to reach. Raises as
    :class:`~ldm_plugin_metrics.networks.timm_network.TimmNetwork`.
    """

    name = "class_accuracy"

    def __init__(self, config: ClassAccuracyConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.classes = config.classes or classes_of(config)
        if wrong := [i for i in config.outputs if not 0 <= i < self.classes]:
            raise ConfigError(f"outputs: there is no output {wrong[0]}; {config.network} has {self.classes}, from 0 on")
        self.network = TimmNetwork(config, classes=self.classes)
        listed = f", outputs {','.join(map(str, config.outputs))}" if config.outputs else ""
        self.source = f"class by {self.network.source}{listed}, key {config.label}"
        self.label = f"class accuracy ({self.network.title})"

    def measure(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """1 or 0 a picture, for the first choice and for the first five."""
        wanted = self._outputs(pictures)
        scores = self.network.rows(pictures, self.network.main)
        if not np.isfinite(scores).all():
            raise DataError(f"{self.name}: the classifier's outputs are not finite; give other weights")
        own = scores[np.arange(len(scores)), wanted]
        before = (scores >= own[:, None]).sum(axis=1) - 1
        return {
            "class_accuracy": (before == 0).astype(np.float64),
            "class_accuracy_top5": ((before < TOP) | (self.classes <= TOP)).astype(np.float64),
        }

    def _outputs(self, pictures: Pictures) -> NDArray[np.int64]:
        """The output of each picture's class."""
        key, named = self.config.label, self.config.outputs
        try:
            labels = torch.as_tensor(pictures.examples[key]).cpu().numpy()
        except (TypeError, ValueError, RuntimeError):
            raise DataError(f"{self.name}: '{key}' is no number of a class; name the key of one with `label`") from None
        if labels.shape != (len(pictures.images),) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{self.name}: '{key}' has shape {labels.shape} and type {labels.dtype}; expected a whole number each"
            )
        count, what = (len(named), "outputs names") if named else (self.classes, "the classifier has")
        if wrong := [int(label) for label in labels if not 0 <= label < count]:
            raise DataError(
                f"{self.name}: a picture has the class {wrong[0]}, and {what} {count}; give a classifier of all classes"
            )
        return np.asarray(named, np.int64)[labels] if named else labels.astype(np.int64)
