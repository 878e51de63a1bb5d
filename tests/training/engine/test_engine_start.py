"""Bringing one process up: no port, and nothing that a process started from it would take for its own."""

from __future__ import annotations

import os
import subprocess
import sys

_CODE = """
import os, subprocess, sys
from ldm_core.training.engine import world
here = world.start()
assert (here.rank, here.size) == (0, 1) and here.main
assert world.start() == here, "a second call finds the group that is there"
assert "RANK" not in os.environ and "MASTER_PORT" not in os.environ
if sys.argv[1] == "parent":
    # while the parent's group is up
    sys.exit(subprocess.run([sys.executable, "-c", sys.argv[2], "child", ""]).returncode)
"""


def test_a_run_may_start_another() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    command = [sys.executable, "-c", _CODE, "parent", _CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
