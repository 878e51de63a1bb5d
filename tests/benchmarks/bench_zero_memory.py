"""What each ZeRO stage keeps on a rank: bytes of parameters, gradients and optimizer between backward and step.

Two ranks on this machine's CPU, a U-Net of a few million parameters in fp32, AdamW. Counted are the storages that the
module, the engine's gradient lists and the optimizer hold, each once; activations and DeepSpeed's buckets are left out.
`in backward` is the most that gradients take while the backward pass runs. `3*`: small parameters are divided as well
(stage3_param_persistence_threshold 0), as they hardly count in a large model.

    python tests/benchmarks/bench_zero_memory.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

RANKS = 2
CASES = {"0": 0, "1": 1, "2": 2, "3": 3, "3*": 3}
SPREAD = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
COLUMNS = ("parameters", "gradients", "in backward", "optimizer")


def held(tensors: Iterable[Any]) -> dict[int, int]:
    """Address -> bytes of the storages behind `tensors`, each once."""
    import torch

    storages = (t.untyped_storage() for t in tensors if isinstance(t, torch.Tensor))
    return {s.data_ptr(): s.nbytes() for s in storages if s.nbytes()}


def nested(value: Any) -> Iterable[Any]:
    """The tensors in lists and mappings of whatever depth."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return [value]
    return [t for v in value for t in nested(v)]


def measure(zero: Any, raw: Any) -> dict[str, float]:
    """Bytes per parameter of this rank, by what they are for."""
    import torch

    from ldm_core.builtin.unet.config import UNetConfig
    from ldm_core.builtin.unet.network import UNet
    from ldm_core.contracts import LatentSpec, Site
    from ldm_core.contracts.conditioning import Cond
    from ldm_core.recipe.settings import EngineSettings
    from ldm_core.training.engine import world
    from ldm_core.training.engine.part import Part

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            site = Site(size=(8, 8), channels=3, latent=LatentSpec(channels=4, stride=(1, 1)))
            self.unet = UNet(UNetConfig(channels=64, channel_mult=(1, 2, 2), attention=(4,), res_blocks=1), site)

        def forward(self, x: Any) -> Any:
            return self.unet(x, torch.zeros(len(x)), Cond()).square().mean()

    settings = EngineSettings(images_per_step=RANKS, zero=zero, deepspeed=raw)
    part = Part("model", Loss(), settings, world.start(), "trainer")
    count = sum(getattr(p, "ds_numel", p.numel()) for p in part.names)
    x = torch.randn(1, 4, 8, 8)
    part.backward(part.engine(x))
    part.step()
    peak = 0

    def look(_: Any) -> None:
        nonlocal peak
        peak = max(peak, sum(held(p.grad for p in part.names).values()))

    for parameter in part.names:
        parameter.register_post_accumulate_grad_hook(look)
    part.backward(part.engine(x))  # moments are there since the first step, gradients again

    optimizer, module = part.engine.optimizer, part.module
    divided = [t for p in module.parameters() if (t := getattr(p, "ds_tensor", None)) is not None]
    parameters = held([*module.parameters(), *divided, *module.buffers()])
    grads = [p.grad for p in module.parameters()] + [getattr(p, "grad_accum", None) for p in module.parameters()]
    gradients = held([*grads, *nested(getattr(optimizer, "averaged_gradients", {}))])
    copies = getattr(optimizer, "single_partition_of_fp32_groups", None) or getattr(
        optimizer, "fp32_partitioned_groups_flat", []
    )
    state = held([*nested(copies), *nested(list(optimizer.state.values()))])
    gradients = {k: v for k, v in gradients.items() if k not in parameters}
    state = {k: v for k, v in state.items() if k not in parameters}
    part.step()
    sizes = {"parameters": parameters, "gradients": gradients, "optimizer": state}
    found = {name: sum(each.values()) / count for name, each in sizes.items()}
    return {"count": count, **found, "in backward": max(peak / count, found["gradients"])}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """One line a stage: bytes per parameter, the mean over the ranks; the sum is that between backward and step."""
    lines = ["ZeRO" + "".join(f"{name:>13}" for name in COLUMNS) + f"{'sum':>9}   bytes a parameter"]
    for name, ranks in rows.items():
        mean = {k: sum(r[k] for r in ranks) / len(ranks) for k in COLUMNS}
        total = sum(v for k, v in mean.items() if k != "in backward")
        lines.append(f"{name:>4}" + "".join(f"{mean[k]:>13.2f}" for k in COLUMNS) + f"{total:>9.2f}")
    return "\n".join(lines)


def compare(folder: Path) -> str:
    """Measure on each rank, with files in `folder`, and return the table."""
    from ldm_core.launch.ranks import Ranks

    command = [sys.executable, "-W", "ignore", __file__, str(folder)]
    assert Ranks(command, RANKS, folder / "logs").run() == 0
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]
    said = f"{RANKS} ranks, {found[0]['0']['count'] / 1e6:.1f} M parameters, fp32"
    return f"{said}\n{table({name: [f[name] for f in found] for name in found[0]})}"


@pytest.mark.benchmark
def test_bytes_of_each_zero_stage(tmp_path: Path) -> None:
    print("\n" + compare(tmp_path))


if __name__ == "__main__":
    if len(sys.argv) > 1:  # as a rank
        made = {name: measure(zero, SPREAD if "*" in name else {}) for name, zero in CASES.items()}
        Path(sys.argv[1], f"{os.environ['RANK']}.json").write_text(json.dumps(made))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            print(compare(Path(temporary)))
