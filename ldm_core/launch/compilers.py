"""The compiler of torch.compile on this machine. Imports no torch."""

from __future__ import annotations

import os
import shutil

_COMPILERS = {"cpu": ("CXX", ("g++", "clang++", "cl"), "C++"), "cuda": ("CC", ("gcc", "clang", "cl"), "C")}


def lacking(device: str) -> str:
    """The end of a message if no compiler for networks on `device`, a type such as ``cuda``, is found; else ""."""
    variable, names, language = _COMPILERS.get(device, _COMPILERS["cuda"])
    if any(name and shutil.which(name) for name in (os.environ.get(variable, ""), *names)):
        return ""
    return (
        f"torch.compile needs a {language} compiler here and none of {', '.join(names)} is on the PATH; install one "
        f"(or name it in {variable})"
    )
