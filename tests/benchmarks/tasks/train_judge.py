"""Train a judge on real pictures, and state its own figure on real pictures that it has not seen.

A classifier is a network of timm (``--network``), saved as ``class_accuracy.weights`` and ``fd.weights`` take it; a
detector and a segmenter are those of judges.py. On one core, at the sizes of the README beside this file, each takes
minutes:

    python train_judge.py classifier --data ../shared/data/fashion_mnist --held-out split=test --out fashion.safetensors
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judges import STRIDE, Judge, JudgedBoxes, JudgedMaps
from numpy.typing import NDArray
from safetensors.torch import save_file
from task_sets import batches, data, judged, record, sha256
from torch import Tensor, nn
from torch.nn import functional as F

SCHEDULES = {"classifier": (1500, 128, 4e-3), "detector": (1200, 8, 3e-3), "segmenter": (900, 16, 3e-3)}
"""Steps, pictures a step, and the highest learning rate."""
WIDTHS = (32, 64, 96, 128)
LARGEST = 60_000


class Set:
    """Training pictures in memory, at one size, and what is known of each."""

    def __init__(self, place: str, size: tuple[int, int], settings: Sequence[str], keys: Sequence[str]) -> None:
        pictures = data(place, size, settings)
        self.names = pictures.class_names
        images, self.examples = [], []
        for _, taken in batches(pictures, keys):
            images.append(taken.images)
            self.examples += [{key: np.asarray(each[key]) for key in keys} for each in taken.examples]
            if len(self.examples) >= LARGEST:
                break
        self.images = np.concatenate(images)


def augmented(
    image: NDArray[Any], known: dict[str, NDArray[Any]], random: np.random.Generator, mirror: bool
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """A picture (3, H, W) mirrored both ways at random, with other light, and its boxes and map along with it."""
    if not mirror:
        return image, known
    boxes = known["boxes"].copy() if "boxes" in known else None
    labels = known.get("segmentation")
    for axis, chosen in enumerate(random.random(2) < 0.5):  # columns, rows
        if chosen:
            image = np.flip(image, 2 - axis)
            labels = None if labels is None else np.flip(labels, 1 - axis)
            if boxes is not None:
                boxes[:, axis] = 1 - boxes[:, axis] - boxes[:, axis + 2]
    gain, shift = random.uniform(0.88, 1.12), random.uniform(-14, 14)
    image = np.clip(image * gain + shift, 0, 255).astype(np.uint8)
    more = {"boxes": boxes, "segmentation": labels}
    return image, known | {key: value for key, value in more.items() if value is not None}


def targets(known: Sequence[Mapping[str, NDArray[Any]]], classes: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Of boxes: heat (B, classes, H, W), with 1 at centres, and geometry (B, 4, H, W) with its weights (B, 1, H, W)."""
    heat = torch.zeros(len(known), classes, height, width)
    geometry, weight = torch.zeros(len(known), 4, height, width), torch.zeros(len(known), 1, height, width)
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width).view(1, -1)
    for i, each in enumerate(known):
        for (x, y, w, h), kind in zip(each["boxes"].tolist(), each["box_labels"].tolist(), strict=True):
            cx, cy, w, h = (x + w / 2) * width, (y + h / 2) * height, w * width, h * height
            column, row = min(int(cx), width - 1), min(int(cy), height - 1)
            spread = (max(w / 8, 0.6), max(h / 8, 0.6))
            bell = torch.exp(-(((columns - column) / spread[0]) ** 2) / 2 - ((rows - row) / spread[1]) ** 2 / 2)
            heat[i, kind] = torch.maximum(heat[i, kind], bell)
            near = (max(row - 1, 0), min(row + 2, height)), (max(column - 1, 0), min(column + 2, width))
            for r in range(*near[0]):
                for c in range(*near[1]):
                    size = np.log(max(w, 1e-3) / 8), np.log(max(h, 1e-3) / 8)
                    geometry[i, :, r, c] = torch.tensor([cx - c, cy - r, *size])
                    weight[i, 0, r, c] = 1.0 if (r, c) == (row, column) else 0.3
    return heat, geometry, weight


def detector_loss(judge: Judge, images: Tensor, known: Sequence[Mapping[str, NDArray[Any]]]) -> Tensor:
    """The focal loss of centres (Zhou et al. 2019, arXiv 1904.07850), and absolute errors of places and sizes."""
    out = judge.network(images).float()
    heat, geometry, weight = targets(known, judge.classes, *out.shape[2:])
    logits = out[:, : judge.classes]
    p = logits.sigmoid()
    at = heat == 1
    count = max(1, int(at.sum()))
    right = F.logsigmoid(logits) * (1 - p) ** 2 * at
    wrong = F.logsigmoid(-logits) * p**2 * (1 - heat) ** 4 * ~at
    error = (weight * (out[:, judge.classes :] - geometry).abs()).sum()
    return (error * 0.5 - right.sum() - wrong.sum()) / count


def segmenter_loss(judge: Judge, images: Tensor, known: Sequence[Mapping[str, NDArray[Any]]]) -> Tensor:
    """The cross-entropy of the class of each pixel."""
    logits = F.pixel_shuffle(judge.network(images).float(), STRIDE)
    wanted = torch.from_numpy(np.stack([each["segmentation"] for each in known]).astype(np.int64))
    return F.cross_entropy(logits, wanted, ignore_index=255)


def trained(
    network: nn.Module, sets: Sequence[Set], loss: Callable[..., Tensor], options: argparse.Namespace, mirror: bool
) -> float:
    """Train on the sets in turn, one a step; the seconds that it took."""
    begun = time.perf_counter()
    optimizer = torch.optim.AdamW(network.parameters(), options.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps, pct_start=0.2)
    random = np.random.default_rng(options.seed)
    orders = [np.zeros(0, np.int64) for _ in sets]
    network.train()
    for step in range(options.steps):
        which = step % len(sets)
        if len(orders[which]) < options.batch:
            orders[which] = np.concatenate((orders[which], random.permutation(len(sets[which].images))))
        chosen, orders[which] = orders[which][: options.batch], orders[which][options.batch :]
        pairs = [augmented(sets[which].images[i], sets[which].examples[i], random, mirror) for i in chosen]
        images = torch.from_numpy(np.stack([image for image, _ in pairs]))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            value = loss(network, images, [known for _, known in pairs])
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(
                f"step {step + 1}/{options.steps}: loss {value.item():.4f}, {time.perf_counter() - begun:.0f} s",
                flush=True,
            )
    network.eval()
    return time.perf_counter() - begun


def classifier(options: argparse.Namespace) -> None:
    """Train a network of timm, prepared as ``class_accuracy`` prepares pictures for it at the size of training."""
    from ldm_plugin_adversarial.perceptual.networks import imported_timm

    size = options.size[0]
    sets = [Set(options.data, size, options.training, ["class_label"])]
    most = max(int(each["class_label"]) for each in sets[0].examples)
    classes = max(1 + most, len(sets[0].names.get("class_label", ())))
    network = imported_timm().create_model(options.network, pretrained=False, num_classes=classes)
    facts = network.pretrained_cfg
    mean, std = (torch.tensor(facts[key]).view(1, 3, 1, 1) * 255 for key in ("mean", "std"))

    def scores(network: nn.Module, images: Tensor) -> Tensor:
        made: Tensor = network(((images.float() - mean) / std).contiguous(memory_format=torch.channels_last))
        return made

    def loss(network: nn.Module, images: Tensor, known: Sequence[Mapping[str, NDArray[Any]]]) -> Tensor:
        wanted = torch.tensor([int(each["class_label"]) for each in known])
        return F.cross_entropy(scores(network, images).float(), wanted, label_smoothing=0.05)

    seconds = trained(network.to(memory_format=torch.channels_last), sets, loss, options, options.mirror)
    right = []
    with torch.inference_mode():
        for _, taken in batches(data(options.data, size, options.held_out), ["class_label"]):
            wanted = torch.tensor([int(each["class_label"]) for each in taken.examples])
            right += (scores(network, torch.from_numpy(taken.images)).argmax(1) == wanted).tolist()
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    told = {"kind": "classifier", "network": options.network, "size": size, "classes": classes}
    save_file(
        {key: value.contiguous() for key, value in network.state_dict().items()},
        options.out, metadata={"judge": json.dumps(told)},
    )  # fmt: skip
    state(options, told, seconds, {"accuracy": float(np.mean(right)), "pictures": float(len(right))})


def judge(options: argparse.Namespace) -> None:
    """Train a detector or a segmenter, on pictures of each of the sizes."""
    detects = options.kind == "detector"
    keys = ["boxes", "box_labels"] if detects else ["segmentation"]
    sets = [Set(options.data, size, options.training, keys) for size in options.size]
    values = np.concatenate([np.ravel(each[keys[-1]]) for each in sets[0].examples])
    classes = max(1 + int(values[values != 255].max()), len(sets[0].names.get(keys[-1], ())))
    told: dict[str, Any] = {
        "kind": options.kind,
        "widths": list(options.widths),
        "classes": classes,
        "size": options.size,
    }
    network = Judge(told)
    network.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds = trained(network, sets, detector_loss if detects else segmenter_loss, options, options.mirror)
    figures: dict[str, float] = {}
    for size in options.size:
        seen = data(options.data, size, options.held_out)
        metric: Any = JudgedBoxes(network) if detects else JudgedMaps(network)
        rows = judged(metric, seen)
        suffix = "" if len(options.size) == 1 else f" {size[0]}x{size[1]}"
        if detects and "confidence" not in told:
            network.facts["confidence"] = told["confidence"] = surest(rows)
            metric = JudgedBoxes(network)
            rows = judged(metric, seen)
            figures["confidence"] = told["confidence"]
        sums = rows if detects else metric.sums(rows)
        figures |= {f"{name}{suffix}": value for name, value in metric.values(sums, None).items()}
        figures |= {"pictures": float(len(seen))}
    network.facts["figures"] = figures
    network.save(options.out)
    state(options, told, seconds, figures)


def surest(rows: Mapping[str, NDArray[Any]]) -> float:
    """The least score for which found boxes, taken together, have the highest F measure at an overlap of 0.5."""
    scores, hits = rows["scores"].ravel(), rows["hits"][..., 0].ravel()
    order = np.argsort(-scores)
    right, count = np.cumsum(hits[order]), int(rows["boxes"].sum())
    measure = 2 * right / (count + np.arange(1, len(order) + 1))
    return float(scores[order][int(measure.argmax())])


def state(options: argparse.Namespace, told: Mapping[str, Any], seconds: float, figures: Mapping[str, float]) -> None:
    """Write the record of a judge beside it."""
    asked = {key: value for key, value in vars(options).items() if key != "run"}
    document = {**asked, **told, "seconds": round(seconds), "sha256": sha256(options.out)}
    record(options.out.replace(".safetensors", ".json"), document, [(f"{told['kind']}, real pictures", figures)])


def size_of(text: str) -> tuple[int, int]:
    """32 or 96x128, height first."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    """Train, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(SCHEDULES))
    parser.add_argument("--data", required=True, help="data set by name or place")
    parser.add_argument("--training", nargs="*", default=[], help="its settings for training, such as split=train")
    parser.add_argument("--held-out", nargs="*", default=["split=val"], help="and for the judge's own figure")
    parser.add_argument("--size", nargs="+", type=size_of, default=[(32, 32)], help="32, 96x128; several are mixed")
    parser.add_argument("--network", default="test_byobnet", help="of timm, for a classifier")
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS, help="of a detector or segmenter")
    parser.add_argument("--mirror", action="store_true", help="mirror both ways at random, and change the light")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="the judge, .safetensors")
    options = parser.parse_args()
    steps, batch, lr = SCHEDULES[options.kind]
    options.steps, options.batch, options.lr = options.steps or steps, options.batch or batch, options.lr or lr
    torch.manual_seed(options.seed)
    (classifier if options.kind == "classifier" else judge)(options)


if __name__ == "__main__":
    main()
