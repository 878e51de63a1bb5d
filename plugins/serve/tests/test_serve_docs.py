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

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_run(tmp_path: Path) -> None:
    """Against a server of its own process, which a signal ends."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    write_run(tmp_path / "demo")
    (shell,), (python,) = blocks("sh"), blocks("python")
    (tmp_path / "example.py").write_text(python)
    serve = [sys.executable, "-m", "ldm_core.cli", "serve", str(tmp_path / "demo"), "--port", "0", "--quiet"]
    process = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip().rstrip("/")
        environment = {**os.environ, "SERVER": url, "NO_PROXY": "*"}

        def said(*command: str) -> str:
            run = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            return run.stdout

        text = said("bash", "-euo", "pipefail", "-c", shell)
        assert '"task":"text to image"' in text and '"caption":"a red circle"' in text
        assert (tmp_path / "circle.png").read_bytes().startswith(b"\x89PNG")
        assert '"images":[{' in (tmp_path / "answer.json").read_text()
        text = said(sys.executable, "example.py")
        assert "422 {'message':" in text and "'where': 'settings.steps'" in text
        assert (tmp_path / "5.png").exists() and (tmp_path / "6.png").exists()
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()


def test_the_limits_are_those_of_the_code() -> None:
    text, limits = PAGE.read_text(encoding="utf-8"), Limits()
    for value in (f"{limits.images}; {limits.steps}; {limits.pixels:,}", f"{limits.body >> 20} MiB",
                  f"{limits.given_pixels:,}", f"{limits.text:,}; {limits.boxes}", f"{limits.queue}; {limits.job:g} s",
                  f"{limits.memory >> 30} GiB", f"whole in {limits.head_time:g} s",
                  f"taken within {limits.send_time:g} s", f"whole in {limits.body_time:g} s"):  # fmt: skip
        assert value in text, value
