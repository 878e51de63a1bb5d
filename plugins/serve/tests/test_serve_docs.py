"""The examples of docs/serving.md, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from header_files import write_run
from ldm_plugin_serve.limits import Limits
from serve_process import running

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_run(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    write_run(tmp_path / "demo")
    (shell,), (python,) = blocks("sh"), blocks("python")
    with running([tmp_path / "demo"]) as served:
        environment = {**os.environ, "SERVER": served.url.rstrip("/"), "NO_PROXY": "*"}
        command = ["bash", "-euo", "pipefail", "-c", shell]
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert '"task":"text to image"' in said.stdout and '"caption":"a red circle"' in said.stdout
        assert (tmp_path / "circle.png").read_bytes().startswith(b"\x89PNG")
        assert '"images":[{' in (tmp_path / "answer.json").read_text()
        (tmp_path / "example.py").write_text(python)
        command = [sys.executable, "example.py"]
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert "422 {'message':" in said.stdout and "'where': 'settings.steps'" in said.stdout
        assert (tmp_path / "5.png").exists() and (tmp_path / "6.png").exists()


def test_the_limits_are_those_of_the_code() -> None:
    text, limits = PAGE.read_text(encoding="utf-8"), Limits()
    for value in (f"{limits.images}; {limits.steps}; {limits.pixels:,}", f"{limits.body >> 20} MiB",
                  f"{limits.given_pixels:,}", f"{limits.text:,}; {limits.boxes}", f"{limits.queue}; {limits.job:g} s",
                  f"{limits.memory >> 30} GiB", f"whole in {limits.head_time:g} s",
                  f"taken within {limits.send_time:g} s", f"whole in {limits.body_time:g} s"):  # fmt: skip
        assert value in text, value
