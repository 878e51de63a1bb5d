"""A picture of every installed sampler's error against its number of steps, on the exactly solvable Gaussian problem.

Deterministic samplers: the greatest error of x against the exact flow; those that draw noise: the error of the standard
deviation. One column for times graded towards data (from t_max, where rectified flow has no signal), one for times even
in ln(sigma / alpha); one row for a table of 1000 and one for rectified flow. Thin lines have the slopes -1, -2 and -3.
Writes sampler_convergence.png and prints the slopes: python THIS_FILE FOLDER.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import NoiseSchedule, Sampler
from ldm_core.testing import gaussian, toys

STEPS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
EXTRA: dict[str, list[dict[str, Any]]] = {
    "unipc": [{"order": 2}, {"order": 3, "lower_order_final": False}],
    "ddim": [{}, {"eta": 1.0}],
}
"""Settings that are shown beside one another; all other samplers have their defaults."""
FLOOR = 1e-13


def samplers() -> dict[str, Sampler]:
    """Every installed sampler, by name and settings."""
    catalog, made = Catalog.discover(), {}
    for name in catalog.names("sampler"):
        component = catalog.get("sampler", name)[0].component
        for settings in EXTRA.get(name, [{}]):
            label = " ".join([name, *(f"{k}={v}" for k, v in settings.items())])
            made[label] = component.load()(structure(settings, component.config), None)
    return made


def error(sampler: Sampler, schedule: NoiseSchedule, times: Tensor) -> tuple[float, bool]:
    """(error, whether the sampler draws noise)."""
    problem = gaussian.Gaussian()
    try:
        return gaussian.flow_error(sampler, schedule, times, problem), False
    except ValueError:
        std = float(problem.marginal(schedule, times[-1])[1])
        return abs(gaussian.moments(sampler, schedule, times, problem)[1] - std), True


def main() -> None:
    """Measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    spacings: dict[str, Callable[[NoiseSchedule, int], Tensor]] = {
        "times graded towards data": lambda schedule, n: gaussian.graded_times(schedule.t_max, 0.0, n),
        "times even in ln(sigma / alpha)": gaussian.log_snr_times,
    }
    colours = [*plt.get_cmap("tab10").colors, "black", "gold"]  # type: ignore[attr-defined]
    figure, axes = plt.subplots(2, 2, figsize=(13, 11), sharex=True, constrained_layout=True)
    for row, name in enumerate(("table", "flow")):
        schedule = toys.schedules()[name]
        for column, (spacing, times_of) in enumerate(spacings.items()):
            axis = axes[row][column]
            for i, (label, sampler) in enumerate(samplers().items()):
                found = [error(sampler, schedule, times_of(schedule, n)) for n in STEPS]
                errors = [max(e, FLOOR) for e, _ in found]
                axis.loglog(
                    STEPS,
                    errors,
                    marker="ovs^D"[i % 5],
                    markersize=4,
                    color=colours[i % len(colours)],
                    linestyle="--" if found[0][1] else "-",
                    label=label + (" (std)" if found[0][1] else ""),
                )
                slope = math.log2(errors[STEPS.index(128)] / errors[STEPS.index(256)])
                print(f"{name:6} {spacing:32} {label:44} order {slope:5.2f}  error in 256 steps {errors[-1]:.1e}")
            for order in (1, 2, 3):
                axis.loglog(STEPS, [0.3 * (4 / n) ** order for n in STEPS], color="0.8", linewidth=0.8, zorder=0)
            axis.set_title(f"{name}, {spacing}")
            axis.set_xticks([4, 8, 16, 32, 64, 128, 256], ["4", "8", "16", "32", "64", "128", "256"], minor=False)
            axis.minorticks_off()
            axis.grid(True, which="major", alpha=0.25)
            if column == 0:
                axis.set_ylabel("error")
            if row == 1:
                axis.set_xlabel("steps")
    axes[0][0].legend(fontsize=8, loc="lower left")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "sampler_convergence.png", dpi=90)


if __name__ == "__main__":
    with torch.no_grad():
        main()
