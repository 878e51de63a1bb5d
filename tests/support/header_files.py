"""A tiny run's two files that were never trained, and copies of them whose headers say something else."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe, versions
from ldm_core.recipe.resolve import resolve

PLAIN: Mapping[str, Any] = {
    "image_size": 16,
    "first_stage": {
        "use": "vq_ae", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "z_channels": 3, "norm_groups": 4,
        "codebook_size": 16, "mid_attention": False,
    },
    "conditioners": [
        {
            "use": "text", "vocab_size": 40, "width": 8, "layers": 1, "heads": 2, "head_width": 4, "length": 8,
            "spare_tokens": 0, "dropout": 0.1,
        }
    ],
    "denoiser": {"use": "unet", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "heads": 2, "attention": [2],
                 "norm_groups": 4},
    "parameterization": "v",
    "sampler": "ddim",
    "guidance": {"use": "cfg", "scale": 2.0},
    "sample": {"steps": 2, "images": 1},
}  # fmt: skip
VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nred\nblue\ncircle\nsquare\n"
Body = dict[str, Any]


def write_run(folder: Path, plain: Mapping[str, Any] = PLAIN, *, empty_tokenizer: bool = False) -> Recipe:
    """The files of a run of `plain`, its weights as they were drawn, its tokenizer that of :data:`VOCABULARY`."""
    import torch
    from safetensors.torch import save_file

    from ldm_core.model.build import make_first_stage, make_model
    from ldm_core.training.averages.posthoc import write_snapshot

    catalog = Catalog.discover()
    recipe = resolve(plain, catalog)
    stage: Any = make_first_stage(recipe, catalog)
    state = dict(make_model(recipe, catalog, stage).state_dict())
    words = b"" if empty_tokenizer else VOCABULARY.encode()
    for name in [name for name in state if name.endswith("_extra_state")]:
        state[name] = torch.tensor(list(words), dtype=torch.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    known = versions(recipe, catalog)
    part = recipe.plain()["first_stage"]
    use = part.pop("use")
    meta = artifacts.metadata("first_stage", use, part, known, image_channels=3, image_size=[16, 16], identity="a" * 64)
    save_file({k: v.contiguous() for k, v in stage.state_dict().items()}, folder / artifacts.STAGE_FILE, metadata=meta)
    meta = artifacts.metadata(
        "model", recipe.denoiser.use, recipe.carried(), known, identity="b" * 64, averaged=True, class_names={},
        first_stage_sha256=hashlib.sha256((folder / artifacts.STAGE_FILE).read_bytes()).hexdigest(),
    )  # fmt: skip
    save_file({k: v.contiguous() for k, v in state.items()}, folder / artifacts.MODEL_FILE, metadata=meta)
    averages = {k: v for k, v in state.items() if k.startswith("denoiser.") and v.is_floating_point()}
    write_snapshot(str(folder), 4, 4, {0.05: averages, 0.1: {k: v.clone() for k, v in averages.items()}}, "b" * 64)
    return recipe


def read_file(path: Path) -> tuple[dict[str, Any], Body, bytes]:
    """(the safetensors header, our metadata in it, the tensors' bytes) of a file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return header, json.loads(header["__metadata__"]["ldm_core"]), data[end:]


def write_file(path: Path, header: Mapping[str, Any], text: str, tensors: bytes) -> None:
    """The file with `text` as our metadata."""
    head = json.dumps({**header, "__metadata__": {"ldm_core": text}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + tensors)


def copy_run(
    base: Path, folder: Path, change: Callable[[Body, Body], None], dump: Callable[[Any], str] = json.dumps
) -> Path:
    """A copy of the run at `base` in `folder` after `change(model's metadata, stage's metadata)`; the model's hash of
    its stage is made to fit, where it was not changed."""
    folder.mkdir(parents=True)
    if (base / "ema").exists():
        shutil.copytree(base / "ema", folder / "ema")
    header, body, tensors = read_file(base / artifacts.MODEL_FILE)
    stage_header, stage, stage_tensors = read_file(base / artifacts.STAGE_FILE)
    before = body["first_stage_sha256"]
    change(body, stage)
    write_file(folder / artifacts.STAGE_FILE, stage_header, dump(stage), stage_tensors)
    if body.get("first_stage_sha256") == before:
        body["first_stage_sha256"] = hashlib.sha256((folder / artifacts.STAGE_FILE).read_bytes()).hexdigest()
    write_file(folder / artifacts.MODEL_FILE, header, dump(body), tensors)
    return folder


def leaves(value: Any, path: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within `value` that is no filled list or mapping, and of those themselves."""
    if path:
        yield tuple(path)
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in rows:
        yield from leaves(each, (*path, key))


def put(value: Any, path: Sequence[Any], new: Any) -> None:
    """Set what lies at `path` within `value`."""
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new
