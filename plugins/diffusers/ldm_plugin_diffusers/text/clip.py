"""CLIPTextModel and its byte-pair tokenizer: to the fields and the state of the `clip_text` conditioner, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.codec import Source
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.autoencoder.read import WrittenPart
from ldm_plugin_diffusers.text.bert import (
    HUGGING_FACE,
    TOKENS,
    TextEncoder,
    WrittenText,
    as_json,
    checked_vocabulary,
    state_of,
    tokenizer_model,
)
from ldm_plugin_diffusers.text.keys import clip_weights
from ldm_plugin_diffusers.values import LAYERS, Values
from ldm_plugin_diffusers.weights import Stored, give

if TYPE_CHECKING:
    from torch import Tensor

CLASS = "CLIPTextModel"
NAME = "clip_text"
START, END = "<|startoftext|>", "<|endoftext|>"
_HEAD = "text_model."


def read_clip(plain: Mapping[str, Any], where: str, stored: Stored) -> tuple[TextEncoder, Stored]:
    """(the conditioner, its tensors by published names) of a config.json of CLIPTextModel.

    ConfigError with everything that the conditioner cannot express. Newer transformers leave ``text_model.`` out of
    the names.
    """
    values = Values(plain, where)
    width = values.whole("hidden_size", 512)
    fields = {
        "vocab_size": values.whole("vocab_size", 49408),
        "width": width,
        "layers": values.whole("num_hidden_layers", 12, most=LAYERS),
        "heads": values.whole("num_attention_heads", 8),
        "inner": values.whole("intermediate_size", 2048),
        "length": values.whole("max_position_embeddings", TOKENS),
        "activation": values.choice("hidden_act", "quick_gelu", ("quick_gelu", "gelu")),
    }
    values.only(layer_norm_eps=1e-5)
    if width % fields["heads"]:
        values.say("num_attention_heads", f"it has to divide hidden_size, {width}")
    values.ignore(*HUGGING_FACE)
    values.finish()
    if not any(name.startswith(_HEAD) for name in stored.places):
        stored = Stored(stored.where, {_HEAD + name: place for name, place in stored.places.items()})
    weights = clip_weights(
        vocab=fields["vocab_size"],
        width=width,
        inner=fields["inner"],
        layers=fields["layers"],
        length=fields["length"],
    )
    ignored = [f"{_HEAD}embeddings.position_ids"]
    return TextEncoder(use=NAME, fields=fields, weights=weights, width=width, ignored=ignored), stored


def read_tokenizer(source: Source, folder: str) -> tuple[bytes, dict[str, Any]]:
    """(the conditioner's state, fields) of a CLIP tokenizer: its vocabulary and merges as JSON.

    CheckpointError where a file is missing or damaged.
    """
    where = f"{source.url}: {folder}"
    settings = source.config(f"{folder}/tokenizer_config.json") or {}
    special = source.config(f"{folder}/special_tokens_map.json") or {}
    vocabulary: Any = source.config(f"{folder}/vocab.json")
    if vocabulary is not None:
        try:
            lines = (source.text(f"{folder}/merges.txt") or b"").decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{where}/merges.txt: is no UTF-8 text at byte {error.start}; copy it again"
            ) from None
        merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    else:
        model = tokenizer_model(source, folder, "BPE")
        vocabulary, rows = model.get("vocab"), model.get("merges")
        merges = [_joined(row) for row in rows] if isinstance(rows, list) else []
    checked_vocabulary(vocabulary, where)
    if not merges or not all(len(merge.split(" ")) == 2 for merge in merges):
        raise CheckpointError(f"{where}: its merges are no list of pairs; copy the folder again")
    if lacking := [word for word in (START, END) if word not in vocabulary]:
        raise CheckpointError(f"{where}: its vocabulary lacks {lacking[0]}; copy the folder again")
    pad = _word(settings.get("pad_token") or special.get("pad_token") or END)
    if pad not in vocabulary:
        raise CheckpointError(f"{where}: its pad_token {pad[:40]!r} is not in the vocabulary; copy the folder again")
    state = {"vocab": dict(vocabulary), "merges": merges}
    return json.dumps(state, ensure_ascii=False).encode(), {"padding": pad}


def _joined(merge: Any) -> str:
    if isinstance(merge, list) and all(isinstance(word, str) for word in merge):
        return " ".join(merge)
    return merge if isinstance(merge, str) else ""


def _word(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token)


def write_clip(part: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> WrittenText:
    """The `clip_text` conditioner of a complete recipe, and its tokenizer's files."""
    if part["length"] != TOKENS:
        raise ConfigError(
            f"conditioners.{part['name']}.length is {part['length']}; StableDiffusionPipeline encodes {TOKENS} tokens"
        )
    state = state_of(tensors)
    try:
        tokens = json.loads(state)
        vocabulary = dict(tokens["vocab"])
        merges = [_joined(m) for m in tokens["merges"]]
        ends = {START: vocabulary[START], END: vocabulary[END]}
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"conditioner '{part['name']}' has no vocabulary and merges to write; name the folder with vocab.json and "
            f"merges.txt of a published CLIP model: conditioners.{part['name']}.tokenizer=FOLDER"
        ) from None
    layers = part["layers"] - part["skip"]
    notes = [f"text_encoder: the last {part['skip']} layers, which nothing uses, are left out"] if part["skip"] else []
    config = {
        "architectures": [CLASS],
        "model_type": "clip_text_model",
        "bos_token_id": ends[START],
        "eos_token_id": ends[END],
        "pad_token_id": 1,
        "hidden_act": part["activation"],
        "hidden_size": part["width"],
        "intermediate_size": part["inner"],
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": part["length"],
        "num_attention_heads": part["heads"],
        "num_hidden_layers": layers,
        "projection_dim": part["width"],
        "vocab_size": part["vocab_size"],
    }
    weights = clip_weights(
        vocab=part["vocab_size"],
        width=part["width"],
        inner=part["inner"],
        layers=layers,
        length=part["length"],
    )
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": part["padding"]}
    settings = {
        **special,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": TOKENS,
        "tokenizer_class": "CLIPTokenizer",
    }
    text = "#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges)
    files = {
        "vocab.json": lambda: json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": lambda: text.encode(),
        "special_tokens_map.json": lambda: as_json(special),
        "tokenizer_config.json": lambda: as_json(settings),
    }
    own = WrittenPart(class_name=CLASS, config=config, tensors=give(weights, tensors, f"conditioner {part['name']}"))
    return WrittenText(part=own, tokenizer=files, notes=notes)
