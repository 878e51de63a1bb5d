"""The tests of the runtime, in a process of their own.

A training that began in a process where OpenVINO had computed ended it by a segmentation fault (openvino 2026.4.1,
torch 2.13.0, deepspeed 0.19.8); the cause is not known. Other tests train in the processes that run them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_runtime_in_a_process_of_its_own() -> None:
    files = [str(Path(__file__).with_name(f"test_openvino_{name}.py")) for name in ("runtime", "suite")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env={**os.environ, "LDM_OWN_PROCESS": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
