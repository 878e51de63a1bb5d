"""The use of a codebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core.contracts import FirstStageAnswers, Metric, Pictures, Rows, Site, configs
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_metrics.model.config import CodebookUseConfig
from ldm_plugin_metrics.model.pipelines import pipeline_of, shown


class CodebookUse(Metric):
    """The share of codes in use on the data, and their perplexity: the exponential of the entropy of the codes' shares,
    the number of codes if all are used equally often (van den Oord et al. 2017, arXiv 1711.00937).

    Both grow with the number of pictures until each code has had its chance: compare figures of equal numbers.
    """

    name = "codebook_use"
    source = "codes of the model's first stage"
    least = 1

    def __init__(self, config: CodebookUseConfig, site: Site) -> None:
        self.config = config

    def measure(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """The code of each latent (B, n), and the number of all codes (B)."""
        pipeline = pipeline_of(pictures, self.name)
        answers = configs.of(FirstStageAnswers, pipeline.stage)
        if answers.indices is None or not answers.codebook_size:
            raise ConfigError(f"{self.name}: the first stage of this model has no codebook; it is for stages of vq_ae")
        with torch.no_grad():
            found = answers.indices(pipeline.stage.encode_moments(shown(pictures, pipeline.stage)))
        indices = found.flatten(1).to(torch.int32).cpu().numpy()
        return {"indices": indices, "codes": np.full(len(indices), answers.codebook_size, np.int64)}

    def sums(self, rows: Rows) -> dict[str, Any]:
        """The number of pictures, and how often each code occurs."""
        size = int(rows["codes"][0]) if len(rows["codes"]) else 0
        counts = np.bincount(np.asarray(rows["indices"]).ravel(), minlength=size)
        return {"count": np.array(len(rows["codes"])), "counts": counts}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The share and the perplexity."""
        if not int(own["count"]):
            raise DataError(f"{self.name} needs 1 picture, and here are 0; give some")
        counts = np.asarray(own["counts"], np.float64)
        share = counts[counts > 0] / counts.sum()
        return {
            "codebook_use": float(len(share) / len(counts)),
            "codebook_perplexity": float(np.exp(-(share * np.log(share)).sum())),
        }
