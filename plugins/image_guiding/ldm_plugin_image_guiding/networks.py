"""Targets judged by a trained network: a perceptual distance, and a class."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from ldm_plugin_adversarial.perceptual.config import FeaturesConfig
from ldm_plugin_adversarial.perceptual.features import FeatureDistance
from ldm_plugin_adversarial.perceptual.networks import imported_timm
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Batch, Estimate, NoiseSchedule, Predict, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError, LDMError, clean
from ldm_core.weights.source import open_source
from ldm_plugin_image_guiding.config import ClassifierTargetConfig, PerceptualTargetConfig
from ldm_plugin_image_guiding.pictures import pictures_of
from ldm_plugin_image_guiding.pull import ImageTarget, Loss

if TYPE_CHECKING:
    from ldm_core.contracts import Conditions

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class _Judged(ImageTarget):
    """A target with a frozen network; it follows the device of x."""

    network: nn.Module
    _moving: Lock

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """See :class:`~ldm_plugin_image_guiding.pull.ImageTarget`."""
        with self._moving:
            if next(self.network.parameters()).device != x.device:
                self.network.to(x.device)
        return super().guide(predict, x, t, conditions, schedule)

    def _keep(self, network: nn.Module) -> None:
        self.network, self._moving = network.eval().requires_grad_(False), Lock()


class PerceptualTarget(_Judged):
    """L = distance / (2 deviation²), the distance of the maps of a trained network, as `adversarial` has it."""

    config: PerceptualTargetConfig

    def __init__(self, config: PerceptualTargetConfig, site: Site) -> None:
        super().__init__(config, site)
        self._size, self._channels = tuple(site.size), site.channels
        made_of = FeaturesConfig(
            network=config.network,
            weights=config.weights,
            weights_sha256=config.weights_sha256,
            layers=config.layers,
            size=config.size,
        )
        with _own_names("guidance 'perceptual_target': "):
            self._keep(FeatureDistance(made_of))

    def loss(self, inputs: Batch) -> Loss:
        """See :class:`~ldm_plugin_image_guiding.pull.ImageTarget`."""
        wanted = pictures_of(inputs, self.config.image, self._channels, self._size)

        def loss(pictures: Tensor) -> Tensor:
            distance: Tensor = self.network(pictures.float(), wanted)
            return distance.flatten() / (2 * self.config.deviation**2)

        return loss


class ClassifierTarget(_Judged):
    """L = -log p(class | picture), p the softmax of a timm network's outputs."""

    config: ClassifierTargetConfig

    def __init__(self, config: ClassifierTargetConfig, site: Site) -> None:
        super().__init__(config, site)
        self._keep(_classifier(config))
        facts: dict[str, Any] = vars(self.network).get("pretrained_cfg") or {}
        self._side = config.size or int((facts.get("input_size") or (3, 224, 224))[-1])
        own = (facts.get(name) or default for name, default in zip(("mean", "std"), _IMAGENET, strict=True))
        self._mean, self._std = (torch.tensor(value).view(1, -1, 1, 1) for value in own)
        with torch.no_grad():
            probe = self.network(torch.zeros(1, 3, self._side, self._side))
        self.classes = int(probe.shape[1])

    def loss(self, inputs: Batch) -> Loss:
        """See :class:`~ldm_plugin_image_guiding.pull.ImageTarget`."""
        key, labels = self.config.label, inputs.get(self.config.label)
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            raise DataError(f"'{key}': expected the number of a class, an output of the classifier, for each image")
        if wrong := [int(label) for label in labels if not 0 <= int(label) < self.classes]:
            raise DataError(f"'{key}': there is no class {wrong[0]}; the classifier has {self.classes}, from 0 on")

        def loss(pictures: Tensor) -> Tensor:
            shown = (pictures.float().expand(-1, 3, -1, -1) + 1) / 2
            shown = F.interpolate(shown, (self._side, self._side), mode="bilinear", antialias=True)
            scores = self.network((shown - self._mean.to(shown)) / self._std.to(shown))
            return F.cross_entropy(scores, labels.to(scores.device).long(), reduction="none")

        return loss


def _classifier(config: ClassifierTargetConfig) -> nn.Module:
    """The timm network of a config, with its head and the weights of its file."""
    timm, name = imported_timm(), config.network
    if not name.replace(".", "_").isidentifier() or not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ConfigError(f"guidance 'classifier_target': network: timm has no network '{clean(name, 80)}'{hint}")
    if not config.weights:
        raise ConfigError("guidance 'classifier_target': weights: give the classifier's weights by path or URL")
    source = open_source(config.weights, sha256=config.weights_sha256)
    file = source.tensors()
    tensors = {key: file.read(key) for key in file.infos}
    wrapper = next((word for word in ("module.", "model.") if tensors and all(k.startswith(word) for k in tensors)), "")
    tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = timm.create_model(name, pretrained=False)
        heads = vars(network).get("pretrained_cfg", {}).get("classifier") or ()
        head = heads if isinstance(heads, str) else next(iter(heads), "")
        count = next((len(tensors[k]) for k in (f"{head}.bias", f"{head}.weight") if k in tensors), None)
        if count is None:
            raise CheckpointError(f"guidance 'classifier_target': weights: {source.url} holds no classifier ({head})")
        network = timm.create_model(name, pretrained=False, num_classes=count)
    own = network.state_dict()
    wrong = [k for k, v in own.items() if k in tensors and tensors[k].shape != v.shape]
    wrong += [k for k in own if k not in tensors and not k.endswith(".num_batches_tracked")]
    if wrong := [*wrong, *(k for k in tensors if k not in own)]:
        raise CheckpointError(
            f"guidance 'classifier_target': weights: {source.url} does not fit timm's {name}: {', '.join(wrong[:4])}"
        )
    network.load_state_dict(tensors, strict=False)
    return network


@contextmanager
def _own_names(where: str) -> Iterator[None]:
    """Errors name the settings of this guidance, and not those of a training loss."""
    try:
        yield
    except LDMError as error:
        raise type(error)(where + str(error).replace("stage_objective.perceptual.", "")) from None
