"""``ldm-run inspect``: what it says of files, of folders and of what is broken, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import hostile_pickles
import hostile_weights as hostile
import pytest
import torch
from safetensors.torch import save_file

from ldm_core.cli import main
from ldm_core.cli.commands.inspect import lines, size
from ldm_core.storage.retry import StorageWarning
from ldm_core.weights import describe

_PROBE = """
import json, sys
from ldm_core.cli import main
code = main(sys.argv[1:])
sys.stdout.flush()
print(json.dumps({"code": code, "modules": sorted({m.partition(".")[0] for m in sys.modules})}), file=sys.stderr)
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 3, 3, 3),
        "model.diffusion_model.out.2.bias": torch.zeros(3),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(4, 3, 3, 3, dtype=torch.float16),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(4, 3, 3, 3, dtype=torch.float16),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.diffusion_modelout2bias": torch.zeros(3),
        **{name: torch.zeros(10) for name in ("betas", "alphas_cumprod", "logvar", "posterior_variance")},
        "extra": {"a": 1},
    }
    torch.save({"state_dict": state, "global_step": 470000, "epoch": 3}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["inspect", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, str(checkpoint), "--hash")
    (file,) = found["files"]
    assert file["container"] == "torch zip" and file["tensors"] == 10
    assert file["parameters"] == 216 + 3 + 108 + 108 + 40 and file["bytes"] == 4 * (216 + 3 + 40 + 1 + 3) + 2 * 216
    assert file["dtypes"] == {"float32": 8, "float16": 2}
    assert file["parts"] == {
        "model.diffusion_model": 219,
        "first_stage_model": 216,
        "(4 single tensors)": 40,
    }
    assert file["averages"] == {"tensors": 2, "parameters": 4}
    assert file["metadata"] == {"global_step": "470000", "epoch": "3"}
    assert file["ignored"] == {"extra": "dict"}
    assert len(found["sha256"]) == 64
    text = "\n".join(lines(found))
    assert "torch zip, 10 tensors of 1.48 kB (float32 x 8, float16 x 2)" in text
    assert "model.diffusion_model               219" in text and "averaged weights (EMA)                4" in text
    assert "global_step: 470000" in text and "extra (dict)" in text


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vae").mkdir()
    save_file({"encoder.conv_in.weight": torch.zeros(2, 2)}, tmp_path / "vae" / "model.safetensors")
    (tmp_path / "vae" / "broken.bin").write_bytes(b"hello")
    found = told(capsys, str(tmp_path))
    assert found["folder"] and [file["name"] for file in found["files"]] == ["vae/broken.bin", "vae/model.safetensors"]
    assert "is no file of tensors" in found["files"][0]["error"] and found["files"][1]["parameters"] == 4
    assert "error" in found["recognised"]
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "vae/broken.bin: does not read" in out and "Not recognised" in out


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(hostile.zipped(hostile.whole(hostile_pickles.reduced("os.system", f"touch {tmp_path}/canary"))))
    for arguments, says in (
        ([str(bad)], "refers to os.system"),
        ([str(tmp_path / "none.ckpt")], "no such file"),
        ([], "nothing to inspect"),
        ([str(bad), "--sha256", "1" * 64], "SHA-256"),
    ):
        assert main(["inspect", *arguments]) == 2
        err = capsys.readouterr().err
        assert says in err and err.startswith("error: ")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ckpt"]
    assert main(["inspect", str(bad), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "error"


def test_it_imports_no_torch(checkpoint: Path) -> None:
    """Only the core's plugin: whether others' codecs are light is held where they are."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, "inspect", str(checkpoint)],
        capture_output=True,
        text=True,
        env={**os.environ, "LDM_PLUGINS": "ldm-core"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["code"] == 0
    assert not {"torch", "deepspeed", "safetensors", "matplotlib", "PIL"} & set(last["modules"])


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (5_703_614_592, "5.7 GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_warnings_are_lines(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(source: Any) -> dict[str, Any]:
        warnings.warn("cannot read it; trying again", StorageWarning, stacklevel=2)
        return facts(source)

    facts = describe.facts
    monkeypatch.setattr(describe, "facts", warned)
    assert main(["inspect", str(checkpoint)]) == 0
    assert capsys.readouterr().err == "warning: cannot read it; trying again\n"
