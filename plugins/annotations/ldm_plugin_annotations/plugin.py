"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """Readers of four forms of annotations."""
    return [
        Component(
            kind="annotation",
            name="coco",
            config="ldm_plugin_annotations.config:CocoConfig",
            factory="ldm_plugin_annotations.coco:Coco",
            summary="COCO's JSON of instances",
            source="cocodataset.org, the data format for object detection",
        ),
        Component(
            kind="annotation",
            name="openimages",
            config="ldm_plugin_annotations.config:OpenImagesConfig",
            factory="ldm_plugin_annotations.openimages:OpenImages",
            summary="OpenImages' CSV of boxes, with the CSV of class descriptions beside it",
            source="storage.googleapis.com/openimages, the data format of version 7",
        ),
        Component(
            kind="annotation",
            name="voc",
            config="ldm_plugin_annotations.config:VocConfig",
            factory="ldm_plugin_annotations.voc:Voc",
            summary="Pascal VOC's XML files, one a picture",
            source="Everingham et al., The PASCAL VOC 2012 development kit, section 6",
        ),
        Component(
            kind="annotation",
            name="yolo",
            config="ldm_plugin_annotations.config:YoloConfig",
            factory="ldm_plugin_annotations.yolo:Yolo",
            summary="YOLO's text files, one a picture, with the classes in data.yaml or classes.txt",
            source="docs.ultralytics.com, the format of detection data sets",
        ),
    ]
