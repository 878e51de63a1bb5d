"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def pairs() -> list[Component]:
    """Metrics of pairs."""
    return [
        Component(
            kind="metric",
            name="psnr",
            config="ldm_plugin_metrics.pairs.config:PSNRConfig",
            factory="ldm_plugin_metrics.pairs.psnr:PSNR",
            summary="peak signal-to-noise ratio of reconstructions, in dB",
        ),
        Component(
            kind="metric",
            name="ssim",
            config="ldm_plugin_metrics.pairs.config:SSIMConfig",
            factory="ldm_plugin_metrics.pairs.ssim:SSIM",
            summary="structural similarity of reconstructions, at most 1",
            source="Wang et al. 2004, IEEE Transactions on Image Processing 13(4)",
        ),
        Component(
            kind="metric",
            name="lpips",
            config="ldm_plugin_metrics.pairs.config:LPIPSConfig",
            factory="ldm_plugin_metrics.pairs.lpips:LPIPSMetric",
            summary="learned perceptual distance of reconstructions, on VGG16",
            source="Zhang et al. 2018, arXiv 1801.03924, version 0.1",
        ),
    ]
