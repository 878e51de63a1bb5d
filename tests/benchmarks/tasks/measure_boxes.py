"""Layout: the boxes that a detector finds in samples, beside those asked for, and beside the same on real pictures.

``found`` is the share of asked boxes that a detection of their class overlaps by half or more; ``overlap`` is the mean,
over the asked boxes, of the largest overlap with any detection, and ``class_right`` the share of right classes among
asked boxes of which that overlap is half or more. Detections below the judge's confidence are left out of these three.

    python measure_boxes.py runs/layout --judge judges/bccd.safetensors --out figures/layout.json
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from judges import Judge, JudgedBoxes
from ldm_plugin_metrics.conditional.boxes import Detections, matched, overlaps
from numpy.typing import NDArray
from run_options import Asked, asked
from task_sets import about, batches, judged, record, sha256

OVERLAP = 0.5
Triple = tuple[Detections, NDArray[Any], NDArray[Any]]
"""Detections, boxes asked for (N, 4), and their classes (N,)."""


def layout(pictures: Iterable[Triple], confidence: float) -> dict[str, float]:
    """Figures of the asked boxes of all pictures together; see the head of the file."""
    found, boxes, located, right = 0, 0, 0, 0
    largest = 0.0
    for each, asked_boxes, classes in pictures:
        sure = np.asarray(each.scores) >= confidence
        order = np.argsort(-np.asarray(each.scores)[sure], kind="stable")
        kinds = np.asarray(each.classes)[sure][order]
        shares = overlaps(np.asarray(each.boxes, np.float64).reshape(-1, 4)[sure][order], asked_boxes)
        boxes += len(asked_boxes)
        if not len(kinds) or not len(asked_boxes):
            continue
        found += int(matched(np.where(kinds[:, None] == classes[None], shares, 0.0), OVERLAP).sum())
        best, share = shares.argmax(0), shares.max(0)
        largest += float(share.sum())
        located += int((share >= OVERLAP).sum())
        right += int((kinds[best] == classes)[share >= OVERLAP].sum())
    return {
        "found": found / boxes,
        "overlap": largest / boxes,
        "class_right": right / max(located, 1),
        "boxes": float(boxes),
    }


def figures(judge: Judge, pictures: Any, source: str) -> dict[str, float]:
    """All figures of a set of pictures with boxes."""
    metric = JudgedBoxes(judge, source)
    values: Mapping[str, float] = metric.values(judged(metric, pictures), None)

    def triples() -> Iterable[Triple]:
        import torch

        for _, taken in batches(pictures, metric.config.reads):
            seen = judge.found(torch.from_numpy(taken.images))
            for each, example in zip(seen, taken.examples, strict=True):
                yield each, np.asarray(example["boxes"], np.float64).reshape(-1, 4), np.asarray(example["box_labels"])

    return layout(triples(), metric.config.confidence) | dict(values)


def main() -> None:
    """Sample, find and print."""
    options = asked(Asked(__doc__ or "", judge=True))
    judge = Judge.load(options.judge)
    _, inputs, made = options.sets()
    rows = [
        (f"real, {len(inputs)} held-out pictures", figures(judge, inputs, sha256(options.judge))),
        (f"{len(made)} samples", figures(judge, made, sha256(options.judge))),
    ]
    document = {
        "run": options.run,
        "samples": about(made),
        "judge": options.judge,
        "judge_sha256": sha256(options.judge),
    }
    document["judge_figures"] = judge.facts.get("figures")
    rows.append(
        ("samples over real", {key: rows[1][1][key] / max(rows[0][1][key], 1e-12) for key in ("found", "overlap")})
    )
    record(options.out, document, rows)


if __name__ == "__main__":
    main()
