"""Judges of layouts and label maps: a small U-Net that finds objects, or the class of each pixel.

A judge is one safetensors file: tensors, and in its header a JSON text with kind, widths, classes, the size that it was
trained at, and the figures that it reached on real pictures. Its network stands here and in no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ldm_plugin_metrics.conditional.boxes import BoxFidelity, Detections, overlaps
from ldm_plugin_metrics.conditional.config import BoxFidelityConfig, MapFidelityConfig
from ldm_plugin_metrics.conditional.label_maps import MapFidelity
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Pictures, Site

STRIDE = 2
MOST = 100
SITE = Site(size=(32, 32))


class Block(nn.Sequential):
    """A convolution of 3 by 3, its norm, and a ReLU."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__(nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class SmallUNet(nn.Module):
    """Pictures uint8 (B, 3, H, W) -> (B, outputs, H / 2, W / 2); sides are multiples of 2 ** len(widths)."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, 5, stride=STRIDE, padding=2), nn.ReLU(), Block(first, first))
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Sequential(Block(a, b), Block(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(Block(a + b, a) for a, b in reversed(pairs))
        self.out = nn.Sequential(Block(first, first), nn.Conv2d(first, outputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        x = self.stem((images.float() / 127.5 - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last))
        kept = [x]
        for block in self.down:
            kept.append(x := block(F.max_pool2d(x, 2)))
        for block, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat((F.interpolate(x, scale_factor=2.0), skip), 1))
        made: Tensor = self.out(x)
        return made


class Judge(nn.Module):
    """A network with its facts: ``kind`` (detector or segmenter), ``widths``, ``classes`` and what was measured."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.facts = dict(facts)
        kinds = {"detector": self.classes + 4, "segmenter": self.classes * STRIDE**2}
        self.network = SmallUNet([int(width) for width in self.facts["widths"]], kinds[self.facts["kind"]])
        if self.facts["kind"] == "detector":
            bias = self.network.state_dict()["out.1.bias"]  # shares memory with the layer
            bias[: self.classes] = -4.0  # objects are rare

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.facts["classes"])

    def save(self, path: str) -> None:
        """Write tensors and facts."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.contiguous() for key, value in self.state_dict().items()}
        save_file(tensors, path, metadata={"judge": json.dumps(self.facts)})

    @classmethod
    def load(cls, path: str) -> Judge:
        """Read a judge, strictly; no code of the file is run."""
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get("judge", "")
        if not told:
            raise SystemExit(f"{path}: no judge; train one with train_judge.py")
        made = cls(json.loads(told))
        made.load_state_dict(load_file(path))
        return made.eval()

    @torch.inference_mode()
    def maps(self, images: Tensor) -> NDArray[np.int64]:
        """Pictures (B) -> the class of each pixel (B, H, W)."""
        logits = F.pixel_shuffle(self.network(images), STRIDE)
        found: NDArray[np.int64] = logits.argmax(1).cpu().numpy()
        return found

    @torch.inference_mode()
    def found(self, images: Tensor, least: float = 0.02) -> list[Detections]:
        """Pictures (B) -> the objects of each with a score of `least` or more, the surest first."""
        out = self.network(images).float()
        heat = out[:, : self.classes].sigmoid()
        heat = heat * (heat == F.max_pool2d(heat, 3, 1, 1))
        height, width = heat.shape[2:]
        made = []
        for scores, geometry in zip(heat, out[:, self.classes :], strict=True):
            values, places = scores.flatten().topk(min(MOST, scores.numel()))
            places = places[values >= least]
            values, cells = values[: len(places)], places % (height * width)
            dx, dy, w, h = geometry.flatten(1)[:, cells]
            x, y = (cells % width + dx) / width, (cells // width + dy) / height
            w, h = w.exp() * 8 / width, h.exp() * 8 / height
            boxes = torch.stack((x - w / 2, y - h / 2, w, h), 1).double().cpu().numpy()
            kinds = (places // (height * width)).cpu().numpy()
            keep = _apart(boxes, kinds)
            made.append(Detections(boxes[keep], kinds[keep], values.cpu().numpy()[keep]))
        return made


def _apart(boxes: NDArray[Any], kinds: NDArray[Any], limit: float = 0.55) -> list[int]:
    """The detections that no surer one of their class overlaps by more than `limit`."""
    same = overlaps(boxes, boxes) * (kinds[:, None] == kinds[None])
    kept: list[int] = []
    for i in range(len(boxes)):
        if not kept or same[i, kept].max() <= limit:
            kept.append(i)
    return kept


class JudgedBoxes(BoxFidelity):
    """The metric ``box_score`` by a detector of :class:`Judge`."""

    def __init__(self, judge: Judge, source: str = "") -> None:
        self.judge, self.source = judge, f"detector {source}"
        super().__init__(BoxFidelityConfig(confidence=float(judge.facts.get("confidence", 0.5))), SITE)

    def detect(self, pictures: Pictures) -> Sequence[Detections]:
        """See :class:`BoxFidelity`."""
        return self.judge.found(pictures.images)


class JudgedMaps(MapFidelity):
    """The metric ``label_map_iou`` by a segmenter of :class:`Judge`."""

    def __init__(self, judge: Judge, source: str = "") -> None:
        self.judge, self.source = judge, f"segmenter {source}"
        super().__init__(MapFidelityConfig(classes=judge.classes), SITE)

    def segment(self, pictures: Pictures) -> NDArray[Any]:
        """See :class:`MapFidelity`."""
        return self.judge.maps(pictures.images)
