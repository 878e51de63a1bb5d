"""Models in the names of CompVis' programs whose numbers come from a rule, as those of the golden figures do.

The figures (``compvis_goldens.json``) are the outputs of the original programs at these sizes: mean, std and largest
magnitude, then the values at flat index 0, 1, n//3, n//2 and n-1.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compvis_files import OneFile, Shapes, shapes_file
from ldm_plugin_compvis.layout import clip as clip_keys
from ldm_plugin_compvis.layout import expected
from ldm_plugin_compvis.layout import schedule_tables as schedules
from ldm_plugin_compvis.layout.state_dict import averaged
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.contracts import CondSpec

HERE = Path(__file__).parent
WORDS = HERE / "golden_words"
GOLDENS: Mapping[str, Any] = json.loads((HERE / "compvis_goldens.json").read_text(encoding="utf-8"))
SHAPES = dict[str, tuple[int, ...]]
CLIP = {"width": 128, "inner": 512, "length": 77}


def numbers(text: str, shape: Sequence[int]) -> Tensor:
    """u of the rule: float64, from -1 to 1, by the text and the place alone."""
    x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(zlib.crc32(text.encode()))
    with np.errstate(over="ignore"):
        for factor, shift in ((0x9E3779B1, 15), (0x85EBCA77, 13), (0xC2B2AE3D, 16)):
            x = x * np.uint32(factor)
            x ^= x >> np.uint32(shift)
    return torch.from_numpy(x / 2**31 - 1).reshape(tuple(shape))


def weight(name: str, shape: Sequence[int]) -> Tensor:
    """A tensor by its name in the checkpoint."""
    u = numbers(name, shape)
    if len(shape) > 1:
        return (u * math.sqrt(3 / math.prod(shape[1:]))).float()
    return (1 + 0.1 * u if name.endswith("weight") else 0.1 * u).float()


def stage_shapes(spec: Mapping[str, Any]) -> SHAPES:
    """An autoencoder's names, from the original's settings."""
    own = spec["ddconfig"]
    fields: dict[str, Any] = {
        "channels": own["ch"],
        "channel_mult": tuple(own["ch_mult"]),
        "res_blocks": own["num_res_blocks"],
        "attention": tuple(own["resolution"] // size for size in own["attn_resolutions"]),
        "mid_attention": own.get("attn_type") != "none",
        "z_channels": own["z_channels"],
    }
    use = "vq_ae" if "n_embed" in spec else "kl_ae"
    return expected.of_first_stage(use, {**fields, "codebook_size": spec.get("n_embed", 0)}, own["in_channels"])


def unet_shapes(own: Mapping[str, Any], channels: int) -> SHAPES:
    """A U-Net's names, from the original's settings."""
    fields = {
        "channels": own["model_channels"],
        "channel_mult": tuple(own["channel_mult"]),
        "res_blocks": own["num_res_blocks"],
        "attention": tuple(own["attention_resolutions"]),
        "heads": own.get("num_heads", 0) or 1,
        "head_channels": own.get("num_head_channels", 0),
        "scale_shift_norm": own.get("use_scale_shift_norm", False),
        "resblock_updown": own.get("resblock_updown", False),
        "linear_projection": own.get("use_linear_in_transformer", False),
        "transformer_depth": own.get("transformer_depth", 1),
    }
    cond = CondSpec(crossattn=own.get("context_dim", 0), concat=own["in_channels"] - channels)
    return expected.of_unet(fields, channels, cond)


def cond_shapes(cond: Any, stage: SHAPES) -> SHAPES:
    """A conditioner's names, from the original's settings."""
    if cond == "__is_first_stage__":
        return stage
    target = "" if isinstance(cond, str) else cond["target"].rpartition(".")[2]
    params = {} if isinstance(cond, str) else cond.get("params", {})
    if target == "ClassEmbedder":
        return {"embedding.weight": (params["n_classes"], params["embed_dim"])}
    if target == "BERTEmbedder":
        row = {"vocab_size": params["vocab_size"], "width": params["n_embed"], "layers": params["n_layer"]}
        more = {"length": params.get("max_seq_len", 77), "heads": 8, "head_width": 64, "logits": True}
        return expected.of_conditioner("text", {**row, **more})
    vocab = len(json.loads((WORDS / "vocab.json").read_text(encoding="utf-8")))
    if target == "FrozenCLIPEmbedder":
        ours = clip_keys.expected({**CLIP, "vocab_size": vocab, "layers": 3})
        return {**ours, clip_keys.OURS + "embeddings.position_ids": (1, CLIP["length"])}
    if target == "FrozenOpenCLIPEmbedder":
        ours = clip_keys.expected({**CLIP, "vocab_size": vocab, "layers": 24})
        stored = clip_keys.to_open({k: torch.empty(v, device="meta") for k, v in ours.items()}, torch.cat)
        return {k: tuple(v.shape) for k, v in stored.items()} | {
            "model.text_projection": (CLIP["width"], 32),
            "model.logit_scale": (),
        }
    return {}


def shapes_of(kind: str) -> SHAPES:
    """Every name of a kind's checkpoint without losses, with its shape."""
    spec = GOLDENS[kind]
    stage = stage_shapes(spec["stage"])
    if "unet" not in spec:
        if spec.get("averages"):
            own = {averaged(name): shape for name, shape in {**stage, **_discriminator()}.items()}
            return {**stage, **own, "model_ema.decay": (), "model_ema.num_updates": ()}
        return stage
    params = spec["params"]
    unet = unet_shapes(spec["unet"], params["channels"])
    out = {f"model.diffusion_model.{k}": v for k, v in unet.items()}
    out |= {f"first_stage_model.{k}": v for k, v in stage.items()}
    out |= {f"cond_stage_model.{k}": v for k, v in cond_shapes(spec["cond"], stage).items()}
    out |= dict.fromkeys(schedules.tables(VPConfig()), (params["timesteps"],))
    if params.get("scale_by_std"):
        out["scale_factor"] = ()
    if params.get("use_ema", True):
        out |= {averaged(f"diffusion_model.{k}"): v for k, v in unet.items()}
        out |= {"model_ema.decay": (), "model_ema.num_updates": ()}
    return out


def _discriminator(width: int = 64) -> SHAPES:
    """The names of the loss's discriminator, whose averages a first stage's file has."""
    out: SHAPES = {}
    widths = [3, width, 2 * width, 4 * width, 8 * width, 1]
    for i, (before, after) in enumerate(pairwise(widths)):
        at = f"loss.discriminator.main.{max(3 * i - 1, 0)}"
        out[f"{at}.weight"] = (after, before, 4, 4)
        norm = at if i in (0, 4) else f"loss.discriminator.main.{3 * i}"
        out |= {f"{norm}.bias": (after,)} | ({} if norm == at else {f"{norm}.weight": (after,)})
    return out


def checksum(shapes: SHAPES) -> int:
    """CRC-32 of the sorted lines ``NAME AxBxC``."""
    lines = sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    return zlib.crc32("\n".join(lines).encode())


def tensors_of(kind: str) -> dict[str, Tensor]:
    """The whole state of a kind's checkpoint."""
    spec, out = GOLDENS[kind], dict[str, Tensor]()
    params = spec.get("params", {})
    config = VPConfig(beta_start=params.get("linear_start", 0.0015), beta_end=params.get("linear_end", 0.0195))
    tables = {k: torch.tensor(v, dtype=torch.float64).float() for k, v in schedules.tables(config).items()}
    whole = {"scale_factor": 0.7123, "model_ema.decay": 0.9999, "model_ema.num_updates": 0}
    for name, shape in shapes_of(kind).items():
        source = name
        if spec.get("cond") == "__is_first_stage__":  # the same module twice
            source = name.replace("cond_stage_model.", "first_stage_model.")
        if name in tables:
            out[name] = tables[name]
        elif name in whole or name.endswith(("logit_scale", "position_ids")):
            out[name] = torch.full(shape, float(whole.get(name, 1.0)))
        else:
            out[name] = weight(source, shape)
    return out


def configuration(kind: str) -> dict[str, Any]:
    """The YAML file of a kind, as the original's programs read it."""
    spec = GOLDENS[kind]
    own = spec["stage"]
    stage = {"embed_dim": own["embed_dim"], **({"n_embed": own["n_embed"]} if "n_embed" in own else {})}
    stage |= {"ddconfig": own["ddconfig"], "lossconfig": {"target": "torch.nn.Identity"}}
    target = f"ldm.models.autoencoder.{own['target']}"
    if "unet" not in spec:
        return {"model": {"target": target, "params": stage}}
    keys = {"celeba": "", "lsun": "", "cin": "class_label", "txt2img": "caption", "bsr": "LR_image"}
    keys |= {"inpainting": "masked_image", "sd": "txt"}
    params = {
        **spec["params"],
        "cond_stage_key": next(key for head, key in keys.items() if kind.startswith(head)),
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": spec["unet"],
        },
        "first_stage_config": {"target": target, "params": stage},
        "cond_stage_config": spec["cond"],
    }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}


def source_of(kind: str, given: Mapping[str, Any]) -> OneFile:
    """A kind's checkpoint with its YAML beside it, as the codec is handed one; `given`: what a user adds."""
    tensors = tensors_of(kind)
    file: Shapes = shapes_file({}, tensors)
    return OneFile(file, given, {"model.yaml": configuration(kind)})
