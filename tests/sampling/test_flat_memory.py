"""Memory of the first stage does not grow with the number of pictures, measured in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROBE = """
import re
import numpy as np, torch
from ldm_core.catalog import Catalog
from ldm_core.model.build import make_first_stage
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.image_to_image import encoded
from ldm_core.sampling.run import reconstruct
def mib(key): return int(re.search(rf"{key}:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
catalog = Catalog.discover()
recipe = resolve({"first_stage": "kl_f4", "scale": "small", "image_size": [32, 32]}, catalog)
stage, device = make_first_stage(recipe, catalog).eval().requires_grad_(False), torch.device("cpu")
pictures = np.random.default_rng(0).integers(0, 256, (128, 3, 32, 32), dtype=np.uint8)
def peak(count):
    with torch.no_grad():
        assert len(encoded(pictures[:count], stage, device, 16)) == count
    assert reconstruct(stage, pictures[:count], device, 16).shape == (count, 3, 32, 32)
    return mib("VmHWM")
before = mib("VmHWM")
few = peak(32)
print(few - before, peak(128) - few)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_128_pictures_take_what_32_take() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    few, more = map(float, done.stdout.split())
    assert more < 16, f"32 pictures took {few:.0f} MiB, 128 another {more:.0f}"
