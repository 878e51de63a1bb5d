"""LDMBertModel and its WordPiece tokenizer as the `text` conditioner, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ldm_core.contracts.codec import Source
from ldm_core.errors import ConfigError
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

BERT = "LDMBertModel"
_FIELDS = (
    Field("vocab_size", "vocab_size", 30522),
    Field("d_model", "width", 1280),
    Field("encoder_layers", "layers", 32, most=LAYERS),
    Field("encoder_attention_heads", "heads", 8),
    Field("head_dim", "head_width", 64),
    Field("max_position_embeddings", "length", TOKENS),
)


def _weights(part: Plain) -> Iterator[Weight]:
    """The weights of the `text` conditioner with these settings."""
    width, inner = part["width"], part["heads"] * part["head_width"]
    yield Weight("transformer.token_emb.weight", ("model.embed_tokens.weight",), (part["vocab_size"], width))
    yield Weight("transformer.pos_emb.emb.weight", ("model.embed_positions.weight",), (part["length"], width))
    for layer in range(part["layers"]):
        theirs = f"model.layers.{layer}"
        for number, before in ((2 * layer, "self_attn_layer_norm"), (2 * layer + 1, "final_layer_norm")):
            yield from norm(f"transformer.attn_layers.layers.{number}.0", f"{theirs}.{before}", width)
        ours = f"transformer.attn_layers.layers.{2 * layer}.1"
        for role in "qkv":
            yield from linear(f"{ours}.to_{role}", f"{theirs}.self_attn.{role}_proj", width, inner, bias=False)
        yield from linear(f"{ours}.to_out", f"{theirs}.self_attn.out_proj", inner, width)
        ours = f"transformer.attn_layers.layers.{2 * layer + 1}.1"
        yield from linear(f"{ours}.net.0.0", f"{theirs}.fc1", width, 4 * width)
        yield from linear(f"{ours}.net.2", f"{theirs}.fc2", 4 * width, width)
    yield from norm("transformer.norm", "model.layer_norm", width)
    if part["logits"]:
        yield from linear("transformer.to_logits", "to_logits", width, part["vocab_size"])


def read_bert(plain: Plain, where: str, stored: Stored) -> TextEncoder:
    """The conditioner of a config.json.

    ConfigError with everything beyond our transformer.
    """
    values = Values(plain, where)
    fields = values.fields(_FIELDS)
    width = fields["width"]
    fields |= {"logits": "to_logits.weight" in stored.places, "spare_tokens": 0}
    values.only(encoder_ffn_dim=4 * width, activation_function="gelu", scale_embedding=False)
    if "encoder_ffn_dim" not in plain and width != 1280:
        values.say("encoder_ffn_dim", f"this package's transformer can express: {4 * width}")
    values.ignore(*HUGGING_FACE)
    values.finish()
    return TextEncoder(use="text", fields=fields, weights=tuple(_weights(fields)), stored=stored)


def with_wordpiece(encoder: TextEncoder, source: Source, folder: str) -> TextEncoder:
    """The conditioner with the BERT tokenizer of a folder. CheckpointError without a vocabulary."""
    settings = source.config(f"{folder}/tokenizer_config.json") or {}
    lowercase = settings.get("do_lower_case", True)
    text = source.text(f"{folder}/vocab.txt")
    if text is None:
        vocabulary = tokenizer_model(source, folder, "WordPiece").get("vocab")
        words = checked_vocabulary(vocabulary, f"{source.url}: {folder}/tokenizer.json")
        text = "".join(f"{word}\n" for word in words).encode()
    return encoder.with_tokenizer(text, lowercase=lowercase if isinstance(lowercase, bool) else True)


def write_bert(part: Plain, tensors: Mapping[str, Tensor]) -> WrittenText:
    """The `text` conditioner of a complete recipe. ConfigError where LDMBertModel would give something else."""
    problems = []
    if part["mask"]:
        problems.append("conditioners.text.mask is true; LDMTextToImagePipeline attends to the padding (mask=false)")
    if part["length"] != TOKENS:
        problems.append(f"conditioners.text.length is {part['length']}; LDMTextToImagePipeline encodes {TOKENS} tokens")
    if part.get("positions") is False:
        problems.append("conditioners.text.positions is false; LDMBertModel adds a vector for each place")
    if part["layers"] == 0:
        problems.append("conditioners.text.layers is 0; LDMBertModel has one layer or more")
    if problems:
        raise ConfigError(problems)
    config = {
        "architectures": [BERT],
        "model_type": "ldmbert",
        "activation_function": "gelu",
        "encoder_ffn_dim": 4 * part["width"],
        "num_hidden_layers": part["layers"],
        "pad_token_id": 0,
        "scale_embedding": False,
        **theirs(_FIELDS, part),
    }
    notes = []
    if not part["logits"]:
        notes.append("bert: it has no vocabulary head (to_logits); diffusers makes a fresh one, which nothing uses")
    state = state_of(tensors)
    tokenizer: Files = {}
    if state and b"\0" not in state and b"[UNK]" in state:
        tokenizer = _wordpiece_files(state, bool(part["lowercase"]))
    else:
        what = "a SentencePiece tokenizer, which the pipeline cannot hold" if state else "no tokenizer"
        notes.append(f"tokenizer: left out, it is {what}; the pipeline needs one that gives the same numbers")
    own = give(tuple(_weights(part)), tensors, "conditioner text")
    return WrittenText(
        part=WrittenPart(class_name=BERT, config=config, tensors=own, notes=notes),
        library="latent_diffusion",
        tokenizer_class="BertTokenizer",
        tokenizer=tokenizer,
    )


def _wordpiece_files(state: bytes, lowercase: bool) -> Files:
    settings = settings_files(
        {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "mask", "pad", "sep", "unk")},
        do_lower_case=lowercase,
        model_max_length=TOKENS,
        strip_accents=None,
        tokenize_chinese_chars=True,
        tokenizer_class="BertTokenizer",
    )
    return {"vocab.txt": lambda: state, **settings}
