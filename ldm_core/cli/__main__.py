"""``python -m ldm_core.cli``: the same as ``ldm-run``, for launchers that start modules."""

from __future__ import annotations

import sys

from ldm_core.cli import main

sys.exit(main())
