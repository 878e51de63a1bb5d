"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def conditional() -> list[Component]:
    """Metrics of samples and their inputs."""
    return [
        Component(
            kind="metric",
            name="class_accuracy",
            config="ldm_plugin_metrics.conditional.config:ClassAccuracyConfig",
            factory="ldm_plugin_metrics.conditional.class_accuracy:ClassAccuracy",
            summary="share of samples in which a given classifier sees their class",
        ),
        Component(
            kind="metric",
            name="text_score",
            config="ldm_plugin_metrics.conditional.config:TextScoreConfig",
            factory="ldm_plugin_metrics.conditional.text_score:TextScore",
            summary="cosine of CLIP's embeddings of samples and their texts",
            source="Radford et al. 2021, arXiv 2103.00020; Hessel et al. 2021, arXiv 2104.08718",
        ),
        Component(
            kind="metric",
            name="box_score",
            config="ldm_plugin_metrics.conditional.config:BoxScoreConfig",
            factory="ldm_plugin_metrics.conditional.box_score:BoxScore",
            summary="average precision and overlap of a detector's boxes with those asked for",
            source="Lin et al. 2014, arXiv 1405.0312",
        ),
        Component(
            kind="metric",
            name="label_map_iou",
            config="ldm_plugin_metrics.conditional.config:LabelMapConfig",
            factory="ldm_plugin_metrics.conditional.label_maps:LabelMapIoU",
            summary="overlap of a segmenter's label maps with those asked for",
            source="Everingham et al. 2015, the segmentation measure of Pascal VOC",
        ),
    ]
