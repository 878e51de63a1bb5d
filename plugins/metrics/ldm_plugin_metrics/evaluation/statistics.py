"""Means and covariances of features in the field's files: ``mu`` and ``sigma`` in a ``.npz``, as pytorch-fid, clean-fid
and ADM's evaluator keep them. Read without pickle and held to their size."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.data.arrays import read_npy
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_metrics.evaluation.figures import Statistics

_MOST = 8 << 30  # bytes of an array of a file
_SAMPLES = "arr_0"
_NAMES = ("mu", "sigma")


@attrs.frozen(eq=False)
class StatisticsFile:
    """A file of statistics: `mu` (D,), `sigma` (D, D), and, in our own, the `count` of pictures and the `source` of the
    features."""

    url: str
    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    count: int = 0
    source: str = ""

    def statistics(self) -> Statistics:
        """The sums of `count` pictures with these moments; of a large number of them, if none is told."""
        count = self.count or 1_000_000
        outer = self.sigma * (count - 1) + count * np.outer(self.mu, self.mu)
        return Statistics({"count": np.array(count), "sum": self.mu * count, "outer": outer}, self.count)


def is_archive(place: str) -> bool:
    """True if the place is a ``.npz`` file."""
    return storage.base_name(place).lower().endswith(".npz")


def names_in(url: str) -> list[str]:
    """The names of the arrays in a ``.npz``; DataError if it is none."""
    with _opened(url) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_statistics(url: str) -> StatisticsFile:
    """Read a file. DataError if it lacks ``mu`` or ``sigma``, or they are not finite or not of one dimension."""
    found = _arrays(url, (*_NAMES, "count", "source"))
    if lacking := [name for name in _NAMES if name not in found]:
        raise DataError(
            f"{storage.shown(url)}: has no '{lacking[0]}' (it has {', '.join(names_in(url)) or 'nothing'}); a file of "
            "statistics has mu and sigma"
        )
    mu, sigma = (np.asarray(found[name], np.float64) for name in _NAMES)
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise DataError(f"{storage.shown(url)}: mu {mu.shape} and sigma {sigma.shape}; expected (D,) and (D, D)")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError(f"{storage.shown(url)}: mu or sigma is not finite; make the statistics anew")
    count = int(found["count"]) if "count" in found and found["count"].size == 1 else 0
    source = bytes(found["source"].astype(np.uint8)).decode("utf-8", "replace") if "source" in found else ""
    return StatisticsFile(url, mu, sigma, max(count, 0), source)


def read_pictures(url: str) -> NDArray[np.uint8]:
    """The samples (N, H, W, 3) of a ``.npz`` of pictures, under ``arr_0``; DataError if there are none."""
    found = _arrays(url, (_SAMPLES,))
    if _SAMPLES not in found:
        raise DataError(f"{storage.shown(url)}: has no pictures ('{_SAMPLES}'), only {', '.join(names_in(url))}")
    return found[_SAMPLES]


def holds_pictures(url: str) -> bool:
    """True if a ``.npz`` has pictures."""
    return _SAMPLES in names_in(url)


def write_statistics(url: str, sums: Mapping[str, Any], source: str) -> None:
    """Write ``mu`` and ``sigma`` (the unbiased covariance) of sums, with their count and source.

    ConfigError for sums of another form than count, sum and outer products, or of fewer than 2 pictures.
    """
    if set(sums) != {"count", "sum", "outer"} or np.ndim(sums["outer"]) != 2:
        raise ConfigError(f"statistics: mean and covariance are of count, sum and outer, and here is {', '.join(sums)}")
    count = int(sums["count"])
    if count < 2:
        raise ConfigError(f"statistics: a covariance needs 2 pictures, and there are {count}")
    mu = np.asarray(sums["sum"], np.float64) / count
    sigma = (np.asarray(sums["outer"], np.float64) - count * np.outer(mu, mu)) / (count - 1)
    buffer = io.BytesIO()
    text = np.frombuffer(source.encode(), np.uint8)
    np.savez(buffer, mu=mu, sigma=(sigma + sigma.T) / 2, count=np.array(count), source=text)
    storage.atomic_write(url, buffer.getvalue())


def _arrays(url: str, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    found = {}
    with _opened(url) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in names:
                continue
            if member.file_size > _MOST:
                raise DataError(f"{storage.shown(url)}: '{name}' has {member.file_size:,} bytes; {_MOST:,} at most")
            try:
                data = archive.read(member)
            except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
                raise DataError(f"{storage.shown(url)}: '{name}' does not read ({error}); copy it again") from None
            found[name] = read_npy(data, f"{storage.shown(url)}, '{name}'")
    return found


def _opened(url: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(storage.read_bytes(url)))
    except zipfile.BadZipFile:
        raise DataError(f"{storage.shown(url)}: is no .npz file, or was cut short; copy it again") from None
