"""Trying again what may pass: with growing, random pauses, up to a number of times and a time."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from ldm_core.errors import LDMError, StorageError
from ldm_core.storage import options
from ldm_core.storage.failures import (
    OddError,
    ReplacedError,
    chained,
    from_network,
    is_passing,
    is_unreached,
    odd,
    reason,
)
from ldm_core.storage.paths import protocol, short

T = TypeVar("T")

FIRST_PAUSE = 0.5
"""Seconds before the second attempt, at most; each further pause is twice as long, up to :data:`LONGEST_PAUSE`."""
LONGEST_PAUSE = 20.0
_UNREACHED_RETRIES = 2  # of an address that never answered: it is more likely misspelt than out of order
_QUIET = 30.0  # seconds between two warnings
_CHANCE = random.Random()  # processes that failed together must not come back together


class StorageWarning(UserWarning):
    """A storage does not answer as it should, and what was asked of it is tried again."""


class _Known:
    """State of this process: the servers that answered, and the time of the last warning."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
        self.warned = float("-inf")

    def may_warn(self, now: float) -> bool:
        """True if it is time for another warning; a thousand reads that fail together make one line."""
        if now - self.warned < _QUIET:  # no lock: a fork would copy it as it is; a second line now and then is no harm
            return False
        self.warned = now
        return True


_KNOWN = _Known()


def retrying(
    doing: str,
    url: str | os.PathLike[str],
    attempt: Callable[[], T],
    progress: Callable[[], int] | None = None,
) -> T:
    """The result of `attempt`, repeated while it fails with a passing failure.

    `progress` counts what failed attempts have achieved (bytes of a read that goes on where it broke); attempts that
    achieve something are not counted against ``retries``, only against ``time_limit``. Other failures are raised as
    they are; lasting ones as a :class:`~ldm_core.errors.StorageError` with the time of trying.
    """
    settings = options.current()
    place = _server(os.fspath(url))
    began, attempts, failures, reached = 0.0, 0, 0, 0
    while True:
        try:
            result = attempt()
        except Exception as error:
            if not is_passing(error):
                if isinstance(error, LDMError | OSError | EOFError | ReplacedError) or from_network(error):
                    raise
                raise OddError(f"{protocol(os.fspath(url))}:// cannot {doing} it ({odd(error)})") from error
            now = time.monotonic()
            began = began or now
            count = progress() if progress is not None else 0
            attempts += 1
            failures = 1 if count > reached else failures + 1
            reached = max(reached, count)
            unknown = is_unreached(error) and place not in _KNOWN.reached
            limit = min(settings.retries, _UNREACHED_RETRIES) if unknown else settings.retries
            pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE) * _CHANCE.uniform(0.5, 1.0)
            if failures > limit or now + pause - began > settings.time_limit:
                tried = f" (tried {attempts} times in {now - began:.0f} s)" if attempts > 1 else ""
                raise StorageError(f"cannot {doing} {short(url)}: {reason(error, os.fspath(url))}{tried}") from chained(
                    error, url
                )
            if _KNOWN.may_warn(now):
                warnings.warn(
                    f"cannot {doing} {short(url)}: {reason(error, os.fspath(url))}; trying again, up to {limit} times",
                    StorageWarning,
                    stacklevel=2,
                )
            time.sleep(pause)
        else:
            _KNOWN.reached.add(place)
            return result


def _server(url: str) -> str:
    if protocol(url) in options.S3:
        return f"s3 {options.current().endpoint_url}"
    return "/".join(url.split("/", 3)[:3])
