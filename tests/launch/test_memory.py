"""Memory that a training process keeps: the system is not asked for it again, and a user's own choice stands."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from ldm_core.launch.memory import keep_freed

_FAULTS = """
import resource, sys
from ldm_core.launch.memory import keep_freed
kept = keep_freed() if sys.argv[1] == "keep" else None
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    blocks = [bytearray(24 << 20) for _ in range(4)]
step()
begun = count()
for _ in range(3):
    step()
print(kept, count() - begun)
"""


def _faults(how: str, **variables: str) -> tuple[str, int]:
    known = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], env={**known, **variables}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs GNU's C library")
def test_freed_memory_is_not_asked_for_again() -> None:
    """Three steps of 96 MiB: 73,728 pages of 4 KiB, or none."""
    (kept, few), (_, many) = _faults("keep"), _faults("leave")
    assert kept == "True" and few < 100
    assert many > 20_000 or few == 0 == many  # a system of huge pages has few of them


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES"])
def test_a_users_choice_stands(name: str) -> None:
    assert not keep_freed({name: "1"})


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed({})
