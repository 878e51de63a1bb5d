"""Whatever is given as a place, a command ends with one line: pipes, devices, sockets, loops, odd URLs, long names."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ldm_core import cli

COMMANDS = {
    "data": ["check", "--data", "@"],
    "tar": ["check", "dataset.use=tar", "dataset.url=@"],
    "folder": ["check", "dataset.use=folder", "dataset.url=@"],
    "recipe": ["check", "--recipe", "@"],
    "start": ["check", "--init-from", "@"],
    "inspect": ["inspect", "@"],
    "convert": ["convert", "@", "out", "--to", "ldm"],
}
PLACES = (
    "pipe.tar",
    "pipe.yaml",
    "pipe.safetensors",
    "zero.tar",
    "zero.yaml",
    "zero.safetensors",
    "socket.tar",
    "loop",
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
    "a\0b.tar",
    "n" * 300,
    "/n" * 3000,
    "reference://",
    "ftp://",
    "dir://",
    "http://[::1/",
    "nobody://x",
    "zip://a::/dev/zero",
    "{0..999999}{0..999999}.tar",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_odd_places(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("tar", "yaml", "safetensors"):
        os.mkfifo(f"pipe.{kind}")
        Path(f"zero.{kind}").symlink_to("/dev/zero")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.tar")
    for place in PLACES:
        code = cli.main([part.replace("@", place) for part in COMMANDS[command]])
        said = capfd.readouterr()
        assert code == 2, place
        assert "Traceback" not in said.err and len(said.err) < 2000, place
        assert not said.out and "error: " in said.err, place
    assert not Path("out").exists()
