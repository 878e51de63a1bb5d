"""The machine, written down."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from ldm_core.launch.cores import cores
from ldm_core.recipe.sizes import memory
from ldm_plugin_study.bench.result.document import Machine, Software

NAMED = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
)
"""Instruction sets for matrix products, by the kernel's names."""


def machine(device: torch.device) -> Machine:
    """Describe the hardware of this process, which computes on `device`. No name of a host or user is in it."""
    facts = _processor_facts()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Machine(
        device=gpu.name if gpu else device.type,
        processor=_processor(facts),
        cores=cores(),
        threads=torch.get_num_threads(),
        instructions=tuple(name for name in NAMED if name in flags),
        memory=memory(),
        device_memory=gpu.total_memory if gpu else 0,
    )


def software(distributions: Mapping[str, str]) -> Software:
    """Describe the programs."""
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    onednn = "oneDNN" if torch.backends.mkldnn.is_available() else "no oneDNN"
    words = [torch.backends.cpu.get_cpu_capability(), blas, onednn]
    words.append(f"float32 products {torch.get_float32_matmul_precision()}")
    if torch.cuda.is_available():
        words.append(f"cuDNN {torch.backends.cudnn.version()}")
        words.append(f"TF32 in convolutions {'on' if torch.backends.cudnn.allow_tf32 else 'off'}")
    return Software(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda or "",
        libraries=", ".join(words),
        distributions=dict(distributions),
    )


def _processor_facts() -> dict[str, str]:
    """The first core's rows of Linux' list; elsewhere none."""
    with contextlib.suppress(OSError):
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
        return {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in rows)}
    return {}


def _processor(facts: Mapping[str, str]) -> str:
    name = facts.get("model name") or platform.processor() or platform.machine()
    model = [f"{word} {facts[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in facts]
    return f"{name} ({', '.join(model)})" if model else name
