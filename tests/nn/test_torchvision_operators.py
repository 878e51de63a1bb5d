"""timm's and transformers' imports beside a torchvision that is right, broken in two ways, or missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from forked import Command, forked

_DESCRIBES = """
import torch
@torch.library.register_fake("torchvision::{name}")
def described(dets, scores, iou_threshold):
    return dets
"""
_LIKE_TIMM = "from torchvision.ops import boxes\nname = 'timm'\n"
_LIKE_TRANSFORMERS = """
from importlib.util import find_spec
sees = find_spec("torchvision") is not None
if sees:
    import torchvision
"""
_ASK = """
import sys
from ldm_core.nn.torchvision_operators import importable
found = []
for turn in range(2):
    with importable():
        import like_transformers
        found.append("sees" if like_transformers.sees else "does without")
        try:
            import like_timm
            found.append(like_timm.name)
        except ImportError:
            found.append("ImportError")
import torch
found.append("declared" if hasattr(torch.ops.torchvision, "nms") else "undeclared")
found.append("hidden" if "torchvision" in sys.modules and sys.modules["torchvision"] is None else "open")
print(*found, sep=",")
"""
RIGHT = "sees,timm,sees,timm"


def asked(folder: Path, torchvision: str | None) -> str:
    """The answers of a process in which torchvision is the module of that code, or missing."""
    (folder / "like_timm.py").write_text(_LIKE_TIMM)
    (folder / "like_transformers.py").write_text(_LIKE_TRANSFORMERS)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    if torchvision is None:
        code += (
            "class Missing:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.partition('.')[0] == 'torchvision':\n"
            "            raise ModuleNotFoundError(name, name=name)\n"
            "sys.meta_path.insert(0, Missing())\n"
            "import importlib.util\n"
            "real = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name: None if name == 'torchvision' else real(name)\n"
        )
    else:
        (folder / "torchvision" / "ops").mkdir(parents=True)
        (folder / "torchvision" / "__init__.py").write_text(torchvision)
        (folder / "torchvision" / "ops" / "__init__.py").write_text("")
        (folder / "torchvision" / "ops" / "boxes.py").write_text("")
    (done,) = forked([Command(["-c", code + _ASK])])
    assert done.code == 0, done.err
    return done.out.strip()


def test_a_right_one_is_left_alone(tmp_path: Path) -> None:
    assert asked(tmp_path, "count = 1\n") == f"{RIGHT},undeclared,open"


def test_the_operators_of_one_for_another_torch_are_declared(tmp_path: Path) -> None:
    code = _DESCRIBES.format(name="nms") + _DESCRIBES.format(name="qnms") + _DESCRIBES.format(name="one_of_later")
    assert asked(tmp_path, code) == f"{RIGHT},declared,open"


def test_one_that_fails_otherwise_is_out_of_sight(tmp_path: Path) -> None:
    without = "does without,ImportError,does without,ImportError"
    assert asked(tmp_path, "raise RuntimeError('built for another torch')\n") == f"{without},undeclared,open"


def test_a_missing_one_is_missed(tmp_path: Path) -> None:
    without = "does without,ImportError,does without,ImportError"
    assert asked(tmp_path, None) == f"{without},undeclared,open"


def test_timm_imports_in_this_environment() -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    code = "with importable():\n    import timm\nprint(timm.__name__)"
    code = f"from ldm_core.nn.torchvision_operators import importable\n{code}"
    (done,) = forked([Command(["-c", code])])
    assert done.out.strip() == "timm", done.err
