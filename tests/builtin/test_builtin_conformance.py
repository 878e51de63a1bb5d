"""The built-in plugin as a whole, and its data sets, in the conformance kit."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ldm_core.data import images
from ldm_core.testing import DatasetSuite, PluginSuite, StageObjectiveSuite


class TestPlugin(PluginSuite):
    module = "ldm_core.builtin.plugin"


class TestReconstruction(StageObjectiveSuite):
    component = "reconstruction"


class TestReconstructionByHuber(StageObjectiveSuite):
    component = "reconstruction"
    settings = MappingProxyType({"loss": "huber", "regularization_weight": 0.5})


class TestShapes(DatasetSuite):
    component = "shapes"
    settings = MappingProxyType({"scenes": 40})
    other_settings = MappingProxyType({"seed": 5})


class TestMixedShapes(DatasetSuite):
    component = "shapes"
    settings = MappingProxyType({"split": "val", "val_scenes": 30, "backgrounds": "mixed", "max_objects": 2})
    other_settings = MappingProxyType({"backgrounds": "plain"})


def sample(index: int) -> dict[str, bytes]:
    """One sample as stored: a picture, a caption, a class, a label map and boxes."""
    draw = np.random.default_rng(index)
    boxes = [[0.1, 0.2, 0.5, 0.6 + 0.1 * (index % 3)], [0.0, 0.0, 1.0, 1.0]][: index % 3]
    labels = [index % 2] * len(boxes)
    return {
        "png": images.png_bytes(draw.integers(0, 256, (3, 12, 16), dtype=np.uint8)),
        "txt": f"picture {index}".encode(),
        "cls": str(index % 3).encode(),
        "seg.png": images.png_bytes(draw.integers(0, 4, (1, 12, 16), dtype=np.uint8)),
        "json": json.dumps({"boxes": boxes, "labels": labels, "title": f"title {index}"}).encode(),
    }


class TestTar(DatasetSuite):
    component = "tar"
    other_settings = MappingProxyType({"read": {"caption": "json.title"}})

    def make_data(self, folder: Path) -> Mapping[str, Any]:
        for shard in range(2):
            with tarfile.open(folder / f"data-train-{shard:06d}.tar", "w") as archive:
                for index in range(4 * shard, 4 * shard + 4):
                    for extension, data in sample(index).items():
                        member = tarfile.TarInfo(f"{index:04d}.{extension}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
        return {"url": str(folder)}


class TestFolder(DatasetSuite):
    component = "folder"
    other_settings = MappingProxyType({"read": {"caption": "json.title"}})

    def make_data(self, folder: Path) -> Mapping[str, Any]:
        for index in range(7):
            for extension, data in sample(index).items():
                if extension != "cls":
                    (folder / f"{index:04d}.{extension}").write_bytes(data)
        return {"url": str(folder)}
