"""Semantic synthesis: the label maps that a segmenter sees in samples, beside those asked for and the same on real
pictures; at the size of training and at others.

    python measure_maps.py runs/semantic --judge judges/wbc.safetensors --sizes 64 128 --out figures/semantic.json
"""

from __future__ import annotations

from typing import Any

from judges import Judge, JudgedMaps
from run_options import Asked, asked
from task_sets import about, judged, record, sha256
from train_judge import size_of


def figures(judge: Judge, pictures: Any, source: str) -> dict[str, float]:
    """Overlap and accuracy of a set of pictures with label maps."""
    metric = JudgedMaps(judge, source)
    return dict(metric.values(metric.sums(judged(metric, pictures)), None))


def main() -> None:
    """Sample, segment and print."""
    more = (
        ("--sizes", {"nargs": "*", "type": size_of, "default": [None], "help": "64, 96x128; none: that of the run"}),
    )
    options = asked(Asked(__doc__ or "", judge=True, more=more))
    judge, digest = Judge.load(options.judge), sha256(options.judge)
    rows: list[tuple[str, dict[str, float]]] = []
    told = []
    for size in options.sizes:
        _, inputs, made = options.sets(size)
        side = "x".join(map(str, inputs.size))
        real, ours = (figures(judge, each, digest) for each in (inputs, made))
        rows += [(f"real, {len(inputs)} held-out pictures, {side}", real), (f"{len(made)} samples, {side}", ours)]
        rows.append((f"samples over real, {side}", {key: ours[key] / max(real[key], 1e-12) for key in ours}))
        told.append(about(made))
    document = {"run": options.run, "samples": told, "judge": options.judge, "judge_sha256": digest}
    record(options.out, {**document, "judge_figures": judge.facts.get("figures")}, rows)


if __name__ == "__main__":
    main()
