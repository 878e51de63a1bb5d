"""A folder of a small model with random weights for each conditioner, as a run leaves it, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import torch
from clip_words import vocabulary

from ldm_core.builtin.ldm_format.codec import LdmCodec
from ldm_core.builtin.ldm_format.config import LdmCodecConfig
from ldm_core.catalog import Catalog
from ldm_core.contracts.site import Site
from ldm_core.testing.suites.codec import put, random_weights

CATALOG = Catalog.discover()
SIZE = (16, 24)
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "blue", "dog", "."]
_TOKENS, _MERGES = vocabulary()
_SMALL: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}
CONDITIONERS: dict[str, Any] = {
    "none": None,
    "class": {"use": "class_label", "classes": 3, "width": 16, "dropout": 0.1},
    "text": {"use": "text", **_SMALL, "head_width": 8, "vocab_size": len(_WORDS), "spare_tokens": 0, "dropout": 0.1},
    "clip": {"use": "clip_text", "name": "text", **_SMALL, "vocab_size": len(_TOKENS), "inner": 32, "dropout": 0.1},
    "layout": {
        "use": "bbox_layout",
        **_SMALL,
        "head_width": 8,
        "classes": 4,
        "vocab_size": 256,
        "objects": 5,
        "dropout": 0.1,
    },
    "map": {"use": "semantic_map", "classes": 3, "dropout": 0.1},
    "small": {"use": "low_resolution"},
    "hole": {"use": "masked_image"},
    "vector": {"use": "embedding", "width": 8, "dropout": 0.1},
    "wide_vector": {"use": "embedding", "width": 96, "dropout": 0.1},
    "letters": {"use": "letters", "dropout": 0.1},
    "palette": {"use": "palette", "width": 16, "dropout": 0.1},
    "sizes": {"use": "sizes"},
    "ground": {"use": "semantic_map", "classes": 3, "key": "ground", "dropout": 0.1},
    "thumb": {"use": "low_resolution", "key": "thumb"},
    "breed": {"use": "class_label", "classes": 3, "width": 16, "key": "breed", "dropout": 0.1},
}
"""By a word for each: a conditioner as a recipe names it."""
CLASS_NAMES = {"class_label": ["cat", "dog", "red fox"], "box_labels": ["tree", "house", "sun", "cloud"]}
_STATES = {
    "text": "".join(f"{word}\n" for word in _WORDS).encode(),
    "clip": json.dumps({"vocab": _TOKENS, "merges": [" ".join(pair) for pair in _MERGES]}).encode(),
}


def toy(word: str, place: Path, **changes: Any) -> Path:
    """The folder of a model with the conditioner of :data:`CONDITIONERS`, below `place`."""
    part = CONDITIONERS[word]
    first_stage = (
        {"use": "vq_f4", "channels": 8, "codebook_size": 16, "norm_groups": 4}
        if word in ("small", "thumb")
        else "identity"
    )
    plain: dict[str, Any] = {
        "image_size": list(SIZE),
        "scale": "small",
        "first_stage": first_stage,
        "conditioners": [part] if part else [],
        "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1], "res_blocks": 1, "heads": 2, "attention": [1],
                     "norm_groups": 8},
        "guidance": {"use": "cfg", "scale": 2.0} if part and part.get("dropout") else "none",
        "sampler": "ddim",
        "sample": {"steps": 2, "images": 2, "batch": 4},
        **changes,
    }  # fmt: skip
    weights = random_weights(plain, catalog=CATALOG)
    keys = [key for part in weights.recipe["conditioners"] for key in CLASS_NAMES if _reads(part, key)]
    weights = attrs.evolve(weights, class_names={key: CLASS_NAMES[key] for key in keys})
    if word in _STATES:
        state = torch.tensor(list(_STATES[word]), dtype=torch.uint8)
        weights = attrs.evolve(weights, model={**(weights.model or {}), "conditioners.text._extra_state": state})
    folder = place / word
    put(LdmCodec(LdmCodecConfig(), Site(size=SIZE)).write(weights, "model").files, folder, "model")
    return next(path.parent for path in folder.rglob("model.safetensors"))


def _reads(part: dict[str, Any], key: str) -> bool:
    return (
        part.get("key", key) == key and part["use"] == {"class_label": "class_label", "box_labels": "bbox_layout"}[key]
    )
