"""The descriptors of this folder."""

from __future__ import annotations

from typing import Any

from ldm_core import Component

_ROOM = "ldm_plugin_metrics.distances"


def _metric(**facts: Any) -> Component:
    facts |= {"factory": f"{_ROOM}.{facts['factory']}", "config": f"{_ROOM}.config:{facts['config']}"}
    return Component(kind="metric", **facts)


def distances() -> list[Component]:
    """Metrics of sets."""
    return [*_of_moments(), *_of_rows()]


def _of_moments() -> list[Component]:
    return [
        _metric(
            name="fid",
            config="FIDConfig",
            factory="frechet:FID",
            summary="Fréchet Inception distance of two sets",
            source="Heusel et al. 2017 (arXiv 1706.08500), equation 6",
            presets={"rfid": f"{_ROOM}.config:PRESETS"},
        ),
        _metric(
            name="fd",
            config="FDConfig",
            factory="frechet:FrechetDistance",
            summary="Fréchet distance of two sets by the features of any network",
            source="Heusel et al. 2017 (arXiv 1706.08500), equation 6, with another network",
            presets=dict.fromkeys(("rfd", "fd_dinov2"), f"{_ROOM}.config:PRESETS"),
        ),
    ]


def _of_rows() -> list[Component]:
    return [
        _metric(
            name="kid",
            config="KIDConfig",
            factory="kernel:KernelDistance",
            summary="kernel distance of two sets by the features of a network, Inception's for KID",
            source="Bińkowski et al. 2018 (arXiv 1801.01401), section 4",
        ),
        _metric(
            name="inception_score",
            config="InceptionScoreConfig",
            factory="inception_score:InceptionScore",
            summary="Inception score of a set",
            source="Salimans et al. 2016 (arXiv 1606.03498), section 4",
        ),
        _metric(
            name="precision_recall",
            config="PrecisionRecallConfig",
            factory="neighbours:PrecisionRecall",
            summary="precision and recall of two sets by the features of any network",
            source="Kynkäänniemi et al. 2019 (arXiv 1904.06991), section 2",
        ),
        _metric(
            name="density_coverage",
            config="DensityCoverageConfig",
            factory="neighbours:DensityCoverage",
            summary="density and coverage of two sets by the features of any network",
            source="Naeem et al. 2020 (arXiv 2002.09797), section 3",
        ),
        _metric(
            name="cmmd",
            config="CMMDConfig",
            factory="kernel:CMMD",
            summary="kernel distance of two sets by CLIP's embeddings of pictures",
            source="Jayasumana et al. 2024 (arXiv 2401.09603), section 5",
        ),
    ]
