"""Averages of any width, after training: power-function averages, their snapshots, and their combinations.

Karras et al. 2024 (arXiv 2312.02696, section 3 and appendix C). A power-function average at update t weighs the
weights of time s by (gamma + 1) s^gamma / t^(gamma + 1); its relative width is the standard deviation of the profile
over t. Averages of a few widths, stored from time to time, span a space. The profile of another width has a nearest
point in it: the same combination of the stored averages is the average of the width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.errors import CheckpointError, ConfigError, clean
from ldm_core.model.fill import tensors_of
from ldm_core.recipe import artifacts
from ldm_core.recipe.settings import MAX_WIDTH

FOLDER = "ema"
"""Folder of a run with ``step-00001000.safetensors``: the averages of every width at the step, float32."""
_POORLY = 0.05


def exponent_of(width: float) -> float:
    """The exponent gamma of the average of this relative width; :class:`ConfigError` outside (0, 0.28]."""
    if not 0 < width <= MAX_WIDTH:
        raise ConfigError(f"width: expected a number above 0 and up to {MAX_WIDTH}, got {width}")
    square = width**-2
    # width² = (gamma + 1) / ((gamma + 2)² (gamma + 3)), multiplied out
    return float(np.roots([1.0, 7.0, 16.0 - square, 12.0 - square]).real.max())


def width_of(exponent: float) -> float:
    """The relative width of the average with this exponent (above -1)."""
    return float(np.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3))))


def decay_of(exponent: float, update: int) -> float:
    """Give the share of the average kept by update `update` (from 1); 0 at the first.

    With it the average is the profile above, each step taking its integral over the step before it, exactly.
    """
    return float((1 - 1 / update) ** (exponent + 1))


def _products(
    t_a: NDArray[np.float64], g_a: NDArray[np.float64], t_b: NDArray[np.float64], g_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Integrals of the product of two profiles, for every pair of `a` (rows) and `b` (columns)."""
    t_a, g_a = t_a[:, None], g_a[:, None]
    # Both are powers up to the earlier time m: m^(ga + gb + 1) / (ta^(ga + 1) tb^(gb + 1)) without its overflow.
    first = np.where(t_a < t_b, t_a, t_b)
    powers = (first / t_a) ** g_a * (first / t_b) ** g_b * first / (t_a * t_b)
    return (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * powers


def combination(
    updates: Sequence[int], exponents: Sequence[float], update: int, exponent: float
) -> tuple[NDArray[np.float64], float]:
    """Give the share of each stored average (`updates`, `exponents`, one each) in the average of `exponent` at
    `update`.

    Least squares between the profiles. Also the remaining distance, relative to the wanted profile's size: 0 is
    exact, 1 is nothing in common.
    """
    t, g = np.asarray(updates, np.float64), np.asarray(exponents, np.float64)
    wanted_t, wanted_g = np.asarray([update], np.float64), np.asarray([exponent], np.float64)
    gram, right = _products(t, g, t, g), _products(t, g, wanted_t, wanted_g)[:, 0]
    own = float(_products(wanted_t, wanted_g, wanted_t, wanted_g)[0, 0])
    # Profiles are scaled to size 1 first: those of early snapshots are tall and narrow.
    scale = np.asarray(np.diag(gram) ** -0.5, np.float64)
    found = scale * np.linalg.lstsq(gram * np.outer(scale, scale), right * scale, rcond=1e-13)[0]
    left = float(found @ gram @ found - 2 * found @ right + own)
    return found, math.sqrt(max(left, 0.0) / own)


@attrs.frozen
class Snapshot:
    """One file: its `url`, the optimizer `step` and the number of `updates` of its averages of `widths`."""

    url: str
    step: int
    updates: int
    widths: tuple[float, ...]
    identity: str


def snapshot_name(step: int) -> str:
    """The file of a step's snapshot, in the run's folder."""
    return f"{FOLDER}/step-{step:08d}.safetensors"


def write_snapshot(
    run: str, step: int, updates: int, averages: Mapping[float, Mapping[str, Tensor]], identity: str
) -> str:
    """Store `averages` (by width, then by parameter) of a step in the run's folder; returns the file's URL."""
    url = storage.join(run, snapshot_name(step))
    body = {"format": 1, "kind": "ema", "step": step, "updates": updates, "widths": list(averages)}
    tensors = {f"{i}/{n}": v.contiguous() for i, each in enumerate(averages.values()) for n, v in each.items()}
    storage.make_folder(storage.join(run, FOLDER))
    storage.atomic_write(url, save(tensors, metadata={"ldm_core": json.dumps({**body, "identity": identity})}))
    return url


def snapshots(run: str, identity: str | None = None) -> list[Snapshot]:
    """The snapshots of a run's folder by step, of this identity if one is given; headers alone are read."""
    found = []
    for file in storage.list_files(storage.join(run, FOLDER)):
        if not file.url.endswith(".safetensors"):
            continue
        header, _ = artifacts.raw_header(file.url)
        try:
            body = parse_json((header.get("__metadata__") or {}).get("ldm_core", "{}"), "its header", ValueError)
            if body.get("kind") == "ema" and identity in (None, body["identity"]):
                found.append(_snapshot(file.url, body))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{storage.shown(file.url)} does not read as a snapshot ({clean(error)})") from None
    return sorted(found, key=lambda s: s.step)


def _snapshot(url: str, body: Mapping[str, Any]) -> Snapshot:
    """ValueError for a body of no snapshot."""
    step, updates, widths = body["step"], body["updates"], body["widths"]
    if not all(type(n) is int and 0 <= n < 1 << 53 for n in (step, updates)):
        raise ValueError("step and updates are no whole numbers")
    if not isinstance(widths, list) or not all(type(w) in (int, float) and 0 < w <= MAX_WIDTH for w in widths[:65]):
        raise ValueError("widths are no widths")
    if len(widths) > 64:
        raise ValueError("more widths than a run tracks")
    return Snapshot(url, step, updates, tuple(widths), str(body["identity"]))


@attrs.frozen(eq=False)
class Reconstruction:
    """`tensors` by parameter name, float32; the distance of the profile from the wanted one (`error`, relative); the
    number of `snapshots` used, and the last `step` of them."""

    tensors: Mapping[str, Tensor]
    error: float
    snapshots: int
    step: int

    @property
    def poor(self) -> bool:
        """True if the snapshots do not hold this width well (more than 5 % of the profile is missing)."""
        return self.error > _POORLY


def reconstruct(run: str, width: float, step: int | None = None, identity: str | None = None) -> Reconstruction:
    """The averaged weights of relative `width` at `step` (None: the last snapshot) of the run at `run`.

    Raises :class:`CheckpointError` if there is no such snapshot, :class:`ConfigError` for an impossible width.
    """
    exponent = exponent_of(width)
    there = storage.exists(storage.join(run, FOLDER))
    found = snapshots(run, identity) if there else []
    if not found:
        raise CheckpointError(
            f"{storage.shown(run)}: holds no snapshots of averages; train with trainer.ema_power='[0.05,0.1]'"
        )
    last = found[-1].step if step is None else step
    if all(s.step != last for s in found):
        near = min((s.step for s in found), key=lambda s: abs(s - last))
        raise CheckpointError(f"`step={last}`: there is no snapshot of that step; the nearest is {near}")
    found = [s for s in found if s.step <= last and s.updates]
    each = [(s, i, exponent_of(w)) for s in found for i, w in enumerate(s.widths)]
    updates = [s.updates for s, _, _ in each]
    shares, error = combination(updates, [g for _, _, g in each], found[-1].updates, exponent)
    out: dict[str, Tensor] = {}
    at = 0
    for snapshot in found:
        stored = tensors_of(snapshot.url, warn=False)
        for i in range(len(snapshot.widths)):
            prefix = f"{i}/"
            for key, value in stored.items():
                if key.startswith(prefix):
                    name, part = key.removeprefix(prefix), value.double() * shares[at]
                    if name in out and out[name].shape != part.shape:
                        raise CheckpointError(f"{storage.shown(snapshot.url)}: '{clean(name)}' is of another shape")
                    out[name] = out[name] + part if name in out else part
            at += 1
    return Reconstruction({k: v.float() for k, v in out.items()}, error, len(found), last)


def write_model(run: str, width: float, out: str, step: int | None = None) -> Reconstruction:
    """A model's file at `out`: the one of the finished run at `run`, with the averages of this width in it."""
    url = artifacts.find(run, artifacts.MODEL_FILE)
    header = artifacts.read_header(url, "model")
    made = reconstruct(run, width, step, str(header.extra.get("identity")))
    tensors = tensors_of(url)
    unknown = [k for k in made.tensors if k not in tensors or tensors[k].shape != made.tensors[k].shape]
    if unknown:
        raise CheckpointError(f"{storage.shown(url)}: its weights are not those of the snapshots ('{unknown[0]}')")
    tensors.update({k: v.to(tensors[k].dtype) for k, v in made.tensors.items()})
    extra: dict[str, Any] = {**header.extra, "averaged": True, "ema_width": width, "ema_step": made.step}
    meta = artifacts.metadata("model", header.use, header.config, header.versions, **extra)
    storage.atomic_write(out, save({k: v.contiguous() for k, v in tensors.items()}, metadata=meta))
    return made
