"""CLIPTextModel and its byte-pair tokenizer as the `clip_text` conditioner, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.codec import Source
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.component import WrittenPart
from ldm_plugin_diffusers.text.encoder import (
    HUGGING_FACE,
    TOKENS,
    Files,
    TextEncoder,
    WrittenText,
    checked_vocabulary,
    settings_files,
    state_of,
    tokenizer_model,
)
from ldm_plugin_diffusers.values import LAYERS, Field, Plain, Values, theirs
from ldm_plugin_diffusers.weights import Stored, Weight, give, linear, norm

if TYPE_CHECKING:
    from torch import Tensor

CLIP = "CLIPTextModel"
START, END = "<|startoftext|>", "<|endoftext|>"
_BEFORE = "text_model."
_FIELDS = (
    Field("vocab_size", "vocab_size", 49408),
    Field("hidden_size", "width", 512),
    Field("num_hidden_layers", "layers", 12, most=LAYERS),
    Field("num_attention_heads", "heads", 8),
    Field("intermediate_size", "inner", 2048),
    Field("max_position_embeddings", "length", TOKENS),
    Field("hidden_act", "activation", "quick_gelu", allowed=("quick_gelu", "gelu")),
)


def _weights(part: Plain, before: str) -> Iterator[Weight]:
    """The weights of the `clip_text` conditioner with these settings; `before` stands before their names there."""
    width, inner = part["width"], part["inner"]
    a, b = "transformer.text_model.", before
    for name, rows in (("token_embedding", part["vocab_size"]), ("position_embedding", part["length"])):
        yield Weight(f"{a}embeddings.{name}.weight", (f"{b}embeddings.{name}.weight",), (rows, width))
    for layer in range(part["layers"]):
        at = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{a}{at}.self_attn.{name}", f"{b}{at}.self_attn.{name}", width, width)
        for name in ("layer_norm1", "layer_norm2"):
            yield from norm(f"{a}{at}.{name}", f"{b}{at}.{name}", width)
        yield from linear(f"{a}{at}.mlp.fc1", f"{b}{at}.mlp.fc1", width, inner)
        yield from linear(f"{a}{at}.mlp.fc2", f"{b}{at}.mlp.fc2", inner, width)
    yield from norm(f"{a}final_layer_norm", f"{b}final_layer_norm", width)


def read_clip(plain: Plain, where: str, stored: Stored) -> TextEncoder:
    """The conditioner of a config.json; newer transformers leave ``text_model.`` out of these.

    ConfigError with everything that the conditioner cannot express.
    """
    values = Values(plain, where)
    fields = values.fields(_FIELDS)
    values.only(layer_norm_eps=1e-5)
    if fields["width"] % fields["heads"]:
        values.say("num_attention_heads", f"it has to divide hidden_size, {fields['width']}")
    values.ignore(*HUGGING_FACE)
    values.finish()
    before = _BEFORE if any(name.startswith(_BEFORE) for name in stored.places) else ""
    return TextEncoder(
        use="clip_text",
        fields=fields,
        weights=tuple(_weights(fields, before)),
        stored=stored,
        ignored=[f"{before}embeddings.position_ids"],
    )


def with_byte_pairs(encoder: TextEncoder, source: Source, folder: str) -> TextEncoder:
    """The conditioner with the CLIP tokenizer of a folder. CheckpointError for a missing or damaged file."""
    where = f"{source.url}: {folder}"
    vocabulary, merges = _byte_pairs(source, folder, where)
    checked_vocabulary(vocabulary, where)
    if not merges or not all(len(merge.split(" ")) == 2 for merge in merges):
        raise CheckpointError(f"{where}: its merges are no list of pairs; copy the folder again")
    if lacking := [word for word in (START, END) if word not in vocabulary]:
        raise CheckpointError(f"{where}: its vocabulary lacks {lacking[0]}; copy the folder again")
    settings = source.config(f"{folder}/tokenizer_config.json") or {}
    special = source.config(f"{folder}/special_tokens_map.json") or {}
    pad = _word(settings.get("pad_token") or special.get("pad_token") or END)
    if pad not in vocabulary:
        raise CheckpointError(f"{where}: its pad_token {pad[:40]!r} is not in the vocabulary; copy the folder again")
    state = {"vocab": dict(vocabulary), "merges": merges}
    return encoder.with_tokenizer(json.dumps(state, ensure_ascii=False).encode(), padding=pad)


def _byte_pairs(source: Source, folder: str, where: str) -> tuple[Any, list[str]]:
    """(vocabulary, merges) of vocab.json and merges.txt, or of tokenizer.json."""
    vocabulary = source.config(f"{folder}/vocab.json")
    if vocabulary is None:
        model = tokenizer_model(source, folder, "BPE")
        rows = model.get("merges")
        return model.get("vocab"), [_joined(row) for row in rows] if isinstance(rows, list) else []
    try:
        lines = (source.text(f"{folder}/merges.txt") or b"").decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}/merges.txt: is no UTF-8 text at byte {error.start}; copy it again") from None
    return vocabulary, [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]


def _joined(merge: Any) -> str:
    if isinstance(merge, list) and all(isinstance(word, str) for word in merge):
        return " ".join(merge)
    return merge if isinstance(merge, str) else ""


def _word(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token)


def write_clip(part: Plain, tensors: Mapping[str, Tensor]) -> WrittenText:
    """The `clip_text` conditioner of a complete recipe, and its tokenizer's files."""
    name, skip = part["name"], part["skip"]
    if part["length"] != TOKENS:
        raise ConfigError(
            f"conditioners.{name}.length is {part['length']}; StableDiffusionPipeline encodes {TOKENS} tokens"
        )
    vocabulary, tokenizer = _tokenizer(part, state_of(tensors))
    used = {**part, "layers": part["layers"] - skip}
    config = {
        "architectures": [CLIP],
        "model_type": "clip_text_model",
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
        "projection_dim": part["width"],
        **theirs(_FIELDS, used),
    }
    notes = [f"text_encoder: the last {skip} layers, which nothing uses, are left out"] if skip else []
    own = give(tuple(_weights(used, _BEFORE)), tensors, f"conditioner {name}")
    return WrittenText(
        part=WrittenPart(class_name=CLIP, config=config, tensors=own, notes=notes),
        library="transformers",
        tokenizer_class="CLIPTokenizer",
        tokenizer=tokenizer,
    )


def _tokenizer(part: Plain, state: bytes) -> tuple[Mapping[str, int], Files]:
    """(vocabulary, files) of the tokenizer in a conditioner's state."""
    try:
        tokens = json.loads(state)
        vocabulary = dict(tokens["vocab"])
        merges = "".join(f"{_joined(merge)}\n" for merge in tokens["merges"])
        if not {START, END} <= vocabulary.keys():
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"conditioner '{part['name']}' has no vocabulary and merges to write; name the folder with vocab.json and "
            f"merges.txt of a published CLIP model: conditioners.{part['name']}.tokenizer=FOLDER"
        ) from None
    settings = settings_files(
        {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": part["padding"]},
        add_prefix_space=False,
        do_lower_case=True,
        errors="replace",
        model_max_length=TOKENS,
        tokenizer_class="CLIPTokenizer",
    )
    files = {
        "vocab.json": lambda: json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": lambda: f"#version: 0.2\n{merges}".encode(),
    }
    return vocabulary, {**files, **settings}
