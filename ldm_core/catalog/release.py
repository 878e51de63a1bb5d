"""The version that all distributions have, and the project's address: the one place of both.

`.ci/distribution.py` reads them from this text when a distribution is built; `.ci/version.py` writes a new version.
"""

from __future__ import annotations

VERSION = "0.1.0"
"""This core's version, and that of every first-party plugin."""
PROJECT_URL = ""
"""The repository's address, without a slash at its end; an index's page then links and shows what the READMEs do. Files
are looked for at ``blob/vVERSION/path`` below it, pictures at ``raw/vVERSION/path``."""
