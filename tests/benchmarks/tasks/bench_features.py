"""Features of pictures as the metrics make them, against bare timm on inputs that are ready: pictures a second.

Both take turns on one thread, and its processor time counts, so that other work on the machine matters little. Bare
timm has no conversion from bytes, no resize and no hash of weights; the pictures of 64 pixels are enlarged for it
beforehand. python THIS_FILE WEIGHTS [--rounds 9]. Wanted: a ratio of at least 0.95.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from ldm_plugin_metrics.networks.config import NetworkConfig
from ldm_plugin_metrics.networks.timm_network import TimmNetwork

from ldm_core.contracts import Pictures
from ldm_core.nn.torchvision_operators import importable

with importable():
    import timm

SIDES = (224, 64)
BATCH = 32


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ours = TimmNetwork(NetworkConfig(network=given.network, weights=given.weights))
    bare = timm.create_model(given.network, num_classes=0).eval()
    bare.load_state_dict(ours.network.state_dict())
    for side in SIDES:
        images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)
        x = F.interpolate(images.float(), (ours.side, ours.side), mode="bicubic", antialias=True)
        ready = ((x - ours.mean) / ours.std).contiguous(memory_format=torch.channels_last)

        def plain(ready: torch.Tensor = ready) -> None:
            with torch.inference_mode():
                bare(ready)

        def made(images: torch.Tensor = images) -> None:
            ours.rows(Pictures(images), "features")

        pairs = [(seconds(plain), seconds(made)) for _ in range(given.rounds + 1)][1:]
        ratio = statistics.median(first / second for first, second in pairs)
        rates = [BATCH / statistics.median(column) for column in zip(*pairs, strict=True)]
        print(f"{side} px: bare {rates[0]:.1f} pictures/s, metrics {rates[1]:.1f} pictures/s, median ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
