"""What must not import torch, in processes of their own; and a plugin that does not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROBE = """
import sys
before = {name.partition(".")[0] for name in sys.modules}
from ldm_core.cli import main
code = main(sys.argv[1:])
sys.stdout.flush()
beginnings = (
    *("ldm_core.cli.commands.", "ldm_core.contracts.", "ldm_core.builtin.diffusion."),
    *("ldm_contract_plugin.t", "ldm_plugin_cfg."),
)
ours = {m for m in sys.modules if m.startswith(beginnings)}
tops = {m.partition(".")[0] for m in sys.modules} - before
import json
print(json.dumps({"code": code, "modules": sorted(tops | ours)}), file=sys.stderr)
"""
SLOW = {"email", "zipfile", "pathlib", "tempfile", "socket", "urllib", "subprocess", "logging", "dataclasses", "json"}
"""Modules of the standard library that take milliseconds each, and none of which a list of commands needs."""
HEAVY = {"torch", "torchvision", "deepspeed", "timm", "s3fs", "sentencepiece", "safetensors", "matplotlib", "scipy"}


def _run(*line: str, path: Path | None = None, plugins: str | None = None) -> tuple[str, int, set[str]]:
    """(stdout, exit code, top-level modules that were imported)."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), environment.get("PYTHONPATH")]))
    if plugins is not None:
        environment["LDM_PLUGINS"] = plugins
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *line], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stderr.splitlines()[-1])
    return done.stdout, last["code"], set(last["modules"])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with an installed distribution whose plugin raises when it is imported."""
    info = tmp_path / "ldm_plugin_wrong-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ldm-plugin-wrong\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[ldm_core]\nwrong = ldm_plugin_wrong\n")
    (tmp_path / "ldm_plugin_wrong.py").write_text("raise RuntimeError('the wrong\\nlibrary')\n")
    return tmp_path


def test_help_imports_next_to_nothing() -> None:
    out, code, modules = _run("--help")
    assert code == 0
    assert "--first-stage" in out and "reconstruct" in out and "tally" in out
    assert not modules & (HEAVY | SLOW | {"numpy", "rich", "PIL", "yaml", "cattrs", "fsspec", "asyncio"})
    assert not [module for module in modules if "." in module], "a command, a contract or another part was imported"


def test_help_of_a_command_does_not_import_what_it_does() -> None:
    _, code, modules = _run("sample", "--help")
    assert code == 0
    ours = {module for module in modules if "." in module and not module.startswith("ldm_core.contracts.")}
    assert ours == {"ldm_core.cli.commands.sample"}
    assert not modules & (HEAVY | {"numpy", "rich", "PIL", "yaml", "cattrs"})


def test_plugins_imports_no_torch() -> None:
    out, code, modules = _run("plugins")
    assert code == 0
    assert out.splitlines()[0].split() == ["KIND", "NAME", "DISTRIBUTION", "SUMMARY"]
    assert any(line.split()[:2] == ["denoiser", "unet"] for line in out.splitlines())
    assert not modules & (HEAVY | {"numpy", "rich", "PIL", "cattrs"})
    built = {module for module in modules if module.endswith(".config")} - {"ldm_core.contracts.config"}
    assert not built, "a listing builds no class of options"


def test_check_and_show_import_no_torch() -> None:
    for line in (["check"], ["show", "unet"]):
        _, code, modules = _run(*line)
        assert code == 0
        assert not modules & HEAVY, f"{line[0]} imports {sorted(modules & HEAVY)}"


def test_a_broken_plugin_is_a_row(broken: Path) -> None:
    out, code, _ = _run("--help", path=broken)
    assert code == 0
    out, code, _ = _run("plugins", path=broken, plugins="ldm-plugin-wrong")
    assert code == 0
    assert out.splitlines()[-3:] == [
        "Do not load:",
        "DISTRIBUTION          PLUGIN  ERROR",
        "ldm-plugin-wrong 1.2  wrong   RuntimeError: the wrong library",
    ]
    assert any(line.split()[:2] == ["denoiser", "unet"] for line in out.splitlines()), "the others still load"
    out, _, _ = _run("plugins", "--json", path=broken, plugins="ldm-plugin-wrong")
    assert json.loads(out)["broken"] == [
        {
            "distribution": "ldm-plugin-wrong",
            "version": "1.2",
            "plugin": "wrong",
            "error": "RuntimeError: the wrong\nlibrary",
        }
    ]


def test_a_broken_plugin_does_not_stop_a_check(broken: Path) -> None:
    out, code, _ = _run("check", "--json", path=broken, plugins="ldm-plugin-wrong")
    assert code == 0
    assert json.loads(out)["notes"][-1] == (
        "plugin 'wrong' of ldm-plugin-wrong does not load (RuntimeError: the wrong); see `ldm-run plugins`"
    )


def test_a_reader_that_leaves_is_no_error() -> None:
    """``ldm-run plugins | head -1``."""
    command = f"{sys.executable} -m ldm_core.cli plugins | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("KIND")
    assert done.stderr == ""
