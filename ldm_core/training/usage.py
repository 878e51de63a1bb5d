"""What a process has used at most."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> float | None:
    """The most memory that was in use since the process began, MiB: tensors on an accelerator, else the process's
    resident memory; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
