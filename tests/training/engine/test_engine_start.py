"""Bringing one process up: no port, and nothing that a process started from it would take for its own."""

from __future__ import annotations

from forked import Command, forked

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
    (done,) = forked([Command(["-c", _CODE, "parent", _CODE])])
    assert done.code == 0, done.err
