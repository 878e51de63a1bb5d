"""Attention of fused projections as the networks hand it on, against torch's kernel on the views as they come.

The channels of a map lie apart where its positions lie side by side; on such views torch multiplies whole matrices.
Both ways take turns on one thread, and its processor time counts, the least of many rounds: this stands other work on
the machine. python THIS_FILE [--rounds 40]. Wanted: ours at least 3 times as fast forward for heads of up to 64
numbers at 1,024 positions and more, and nowhere slower.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_core.nn.attention import attend

SHAPES = (  # images, heads, positions, numbers of a head
    (2, 4, 1024, 32),
    (2, 1, 4096, 64),
    (2, 8, 256, 64),
    (4, 4, 64, 32),
    (1, 1, 1024, 128),
    (1, 1, 256, 512),
    (1, 1, 1024, 512),
)


def views(projected: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B,heads,N,d) of a fused projection (B,3C,N), nothing copied."""
    q, k, v = projected.unflatten(1, (heads, 3, -1)).transpose(-1, -2).unbind(2)
    return q, k, v


def ours(projected: Tensor, heads: int) -> Tensor:
    """As the networks do it."""
    return attend(*views(projected, heads)).transpose(-1, -2).flatten(1, 2)


def strided(projected: Tensor, heads: int) -> Tensor:
    """Torch's function on the views; what is narrower than float32 is widened, as the networks do it."""
    q, k, v = (each.float() for each in views(projected, heads))
    return F.scaled_dot_product_attention(q, k, v).to(projected.dtype).transpose(-1, -2).flatten(1, 2)


def seconds(work: Callable[[Tensor, int], Tensor], projected: Tensor, heads: int, back: bool) -> float:
    """Processor time of one call, backward too with `back`."""
    given = projected.detach().requires_grad_(back)
    began = time.process_time()
    with torch.set_grad_enabled(back):
        out = work(given, heads)
        if back:
            out.sum().backward()
    return time.process_time() - began


def main() -> None:
    """Print a line for each shape, kind of number and direction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for images, heads, positions, numbers in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for back in (False, True):
                projected = torch.randn(images, 3 * heads * numbers, positions).to(dtype)
                times: dict[str, list[float]] = {"ours": [], "strided": []}
                for _ in range(rounds):
                    for name, work in (("ours", ours), ("strided", strided)):
                        times[name].append(seconds(work, projected, heads, back))
                fast, slow = (1e3 * min(times[name]) for name in ("ours", "strided"))
                shape, way = str((images, heads, positions, numbers)), "back" if back else "forward"
                print(
                    f"{shape:18} {str(dtype)[6:]:9} {way:8} strided {slow:8.2f} ms   ours {fast:8.2f} ms   "
                    f"{slow / fast:5.2f} times as fast",
                    flush=True,
                )


if __name__ == "__main__":
    main()
