"""Features of pictures by a metric's network, against bare inference of the same network.

Both take the same 8-bit pictures in batches and give features as arrays. Bare: pictures of the network's side are
scaled to its input by mean and deviation, and the network is called. The metric checks them, scales others to the side,
calls the network in float32 with autocast off, and keeps what other metrics need of the batch. Rounds of both take
turns, so that a busy machine slows both alike; the numbers are medians of rounds, by the process's own time on one
thread.

    python THIS_FILE --network tf_efficientnet_lite0 --side 224 64
    python THIS_FILE --network inception --side 299 32
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from ldm_plugin_metrics.networks.build import build
from ldm_plugin_metrics.networks.config import INCEPTION, NetworkConfig
from torch import Tensor

from ldm_core.contracts import Pictures


def bare(network: Any, config: NetworkConfig) -> tuple[Callable[[Tensor], Any], int]:
    """The network alone, and the side of its pictures."""
    if config.network == INCEPTION:
        layers = [layer for name, layer in network.named_children() if name != "fc"]

        def features(images: Tensor) -> Any:
            x = (images.float() - 128) / 128
            for layer in layers:
                x = layer(x)
            return x.mean((2, 3)).numpy()

        return features, 299
    inner, mean, std = network.network, network.mean, network.std
    return lambda images: inner((images.float() - mean) / std).numpy(), network.side


def main() -> None:
    """Print a row for each side of pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="tf_efficientnet_lite0", help="inception, or a timm network")
    parser.add_argument("--weights", default="", help="a file of its weights; none: random ones")
    parser.add_argument("--side", type=int, nargs="+", default=[224, 64], help="sides of the pictures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of one batch each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seed = None if given.weights else 0
    config = NetworkConfig(network=given.network, weights=given.weights, random_seed=seed)
    network = build(config)
    alone, own = bare(network, config)
    print(f"{given.network}, batches of {given.batch}, torch {torch.__version__}, one thread")
    for side in given.side:
        shown, ready = (torch.randint(0, 256, (given.batch, 3, s, s), dtype=torch.uint8) for s in (side, own))
        ways: dict[str, Callable[[], Any]] = {
            "bare": lambda ready=ready: alone(ready),  # type: ignore[misc]
            "metric": lambda shown=shown: network.rows(Pictures(shown), network.main),  # type: ignore[misc]
        }
        spent: dict[str, list[float]] = {name: [] for name in ways}
        with torch.inference_mode():
            for number in range(given.rounds + 1):
                for name, way in ways.items():
                    start = time.process_time()
                    way()
                    if number:
                        spent[name].append(time.process_time() - start)
        speeds = {name: given.batch / statistics.median(times) for name, times in spent.items()}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(
            f"pictures of {side}: bare (at {own}) {speeds['bare']:.1f}/s, metric {speeds['metric']:.1f}/s, "
            f"{speeds['metric'] / speeds['bare']:.3f} x; peak {peak} MiB"
        )


if __name__ == "__main__":
    main()
