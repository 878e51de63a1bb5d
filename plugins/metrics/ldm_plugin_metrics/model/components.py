"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def of_models() -> list[Component]:
    """Metrics of a model and its data."""
    return [
        Component(
            kind="metric",
            name="codebook_use",
            config="ldm_plugin_metrics.model.config:CodebookUseConfig",
            factory="ldm_plugin_metrics.model.codebook_use:CodebookUse",
            summary="share of codes that a VQ first stage uses on data, and their perplexity",
            source="van den Oord et al. 2017, arXiv 1711.00937",
        ),
        Component(
            kind="metric",
            name="bound",
            config="ldm_plugin_metrics.model.config:BoundConfig",
            factory="ldm_plugin_metrics.model.bound:Bound",
            summary="variational bound in bits per value, and rate and distortion by level",
            source="Ho et al. 2020, arXiv 2006.11239; Rombach et al. 2022, arXiv 2112.10752, figure 2",
        ),
        Component(
            kind="metric",
            name="nearest",
            config="ldm_plugin_metrics.model.config:NearestConfig",
            factory="ldm_plugin_metrics.model.nearest:Nearest",
            summary="distance to the nearest training pictures, and the share of memorised ones",
            source="Alaa et al. 2022, arXiv 2102.08921; Gu et al. 2023, arXiv 2310.02664",
        ),
    ]
