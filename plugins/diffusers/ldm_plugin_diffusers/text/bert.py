"""Text encoders and their tokenizers: LDMBertModel and CLIPTextModel to the fields of our conditioners, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from ldm_core.contracts.codec import Source
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.autoencoder.read import WrittenPart
from ldm_plugin_diffusers.text.keys import bert_weights
from ldm_plugin_diffusers.values import LAYERS, Values
from ldm_plugin_diffusers.weights import Stored, Taken, Weight, give, take

if TYPE_CHECKING:
    from torch import Tensor

BERT = "LDMBertModel"
STATE = "_extra_state"
TOKENS = 77
"""How many tokens the pipelines encode, whatever the text encoder could take."""
HUGGING_FACE = (
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "init_std", "initializer_factor"),
    *("initializer_range", "use_cache", "num_hidden_layers", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "encoder_layerdrop"),
    *("projection_dim", "is_encoder_decoder", "id2label", "label2id", "return_dict", "output_attentions"),
)
"""Keys of transformers' config.json that change nothing about what a trained encoder gives."""


@attrs.frozen(kw_only=True)
class TextEncoder:
    """A conditioner as its config describes it; `use` is its component. `width`: of its vectors."""

    use: str
    fields: Mapping[str, Any]
    weights: Sequence[Weight]
    width: int
    ignored: Sequence[str] = ()
    notes: Sequence[str] = ()
    name: ClassVar[str] = "text"
    """What the conditioner is called in a recipe."""

    def read(self, stored: Stored, state: bytes) -> tuple[dict[str, Tensor], Taken]:
        """The weights in the conditioner's names, `state` (its tokenizer's bytes) among them."""
        taken = take(self.weights, stored, ignored=self.ignored)
        return {**taken.tensors, STATE: _bytes(state)}, taken


def _bytes(state: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(state), dtype=torch.uint8) if state else torch.empty(0, dtype=torch.uint8)


def read_bert(plain: Mapping[str, Any], where: str, stored: Stored) -> TextEncoder:
    """A config.json of LDMBertModel. ConfigError with everything that our transformer cannot express."""
    values = Values(plain, where)
    width = values.whole("d_model", 1280)
    fields: dict[str, Any] = {
        "vocab_size": values.whole("vocab_size", 30522),
        "width": width,
        "layers": values.whole("encoder_layers", 32, most=LAYERS),
        "heads": values.whole("encoder_attention_heads", 8),
        "head_width": values.whole("head_dim", 64),
        "length": values.whole("max_position_embeddings", TOKENS),
        "logits": "to_logits.weight" in stored.places,
        "spare_tokens": 0,
    }
    values.only(encoder_ffn_dim=4 * width, activation_function="gelu", scale_embedding=False)
    if "encoder_ffn_dim" not in plain and width != 1280:
        values.say("encoder_ffn_dim", f"this package's transformer can express: {4 * width}")
    values.ignore(*HUGGING_FACE)
    values.finish()
    weights = bert_weights(
        vocab=fields["vocab_size"],
        width=width,
        layers=fields["layers"],
        inner=fields["heads"] * fields["head_width"],
        length=fields["length"],
        logits=fields["logits"],
    )
    return TextEncoder(use="text", fields=fields, weights=weights, width=width)


# ------------------------------------------------------------------------------------------------- tokenizers


def read_wordpiece(source: Source, folder: str) -> tuple[bytes, dict[str, Any]]:
    """(bytes of vocab.txt, fields) of a BERT tokenizer. CheckpointError where there is no vocabulary."""
    settings = source.config(f"{folder}/tokenizer_config.json") or {}
    lowercase = settings.get("do_lower_case", True)
    fields = {"lowercase": lowercase if isinstance(lowercase, bool) else True}
    text = source.text(f"{folder}/vocab.txt")
    if text is not None:
        return text, fields
    model = tokenizer_model(source, folder, "WordPiece")
    vocabulary = model.get("vocab")
    words = checked_vocabulary(vocabulary, f"{source.url}: {folder}/tokenizer.json")
    return "".join(f"{word}\n" for word in words).encode(), fields


def tokenizer_model(source: Source, folder: str, kind: str) -> Mapping[str, Any]:
    """The ``model`` of a tokenizer.json of this kind; CheckpointError where there is none."""
    found = source.config(f"{folder}/tokenizer.json")
    model = found.get("model") if found is not None else None
    if not isinstance(model, Mapping) or model.get("type", kind) != kind:
        raise CheckpointError(f"{source.url}: {folder} has no vocabulary of a {kind} tokenizer; copy the folder again")
    return model


def checked_vocabulary(vocabulary: Any, where: str) -> list[str]:
    """Words by their number; CheckpointError where numbers are missing or come twice."""
    if isinstance(vocabulary, Mapping) and vocabulary:
        ids = {number: word for word, number in vocabulary.items() if isinstance(number, int)}
        if len(ids) == len(vocabulary) and set(ids) == set(range(len(ids))):
            return [str(ids[i]) for i in range(len(ids))]
    raise CheckpointError(f"{where}: its vocabulary is no list of words numbered from 0; copy the folder again")


# ------------------------------------------------------------------------------------------------- and out


@attrs.frozen(kw_only=True)
class WrittenText:
    """A text encoder and its tokenizer's files by name; none where the format cannot hold the tokenizer."""

    part: WrittenPart
    tokenizer: Mapping[str, Callable[[], bytes]]
    notes: Sequence[str] = ()


def state_of(tensors: Mapping[str, Tensor]) -> bytes:
    """The tokenizer's bytes among a conditioner's tensors; empty where there are none."""
    state = tensors.get(STATE)
    return b"" if state is None or not state.numel() else state.cpu().numpy().tobytes()


def write_bert(part: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> WrittenText:
    """The `text` conditioner of a complete recipe. ConfigError where LDMBertModel would give something else."""
    problems = []
    if part["mask"]:
        problems.append("conditioners.text.mask is true; LDMTextToImagePipeline attends to the padding (mask=false)")
    if part["length"] != TOKENS:
        problems.append(f"conditioners.text.length is {part['length']}; LDMTextToImagePipeline encodes {TOKENS} tokens")
    if problems:
        raise ConfigError(problems)
    config = {
        "architectures": [BERT],
        "model_type": "ldmbert",
        "activation_function": "gelu",
        "d_model": part["width"],
        "encoder_attention_heads": part["heads"],
        "encoder_ffn_dim": 4 * part["width"],
        "encoder_layers": part["layers"],
        "head_dim": part["head_width"],
        "max_position_embeddings": part["length"],
        "num_hidden_layers": part["layers"],
        "pad_token_id": 0,
        "scale_embedding": False,
        "vocab_size": part["vocab_size"],
    }
    weights = bert_weights(
        vocab=part["vocab_size"],
        width=part["width"],
        layers=part["layers"],
        inner=part["heads"] * part["head_width"],
        length=part["length"],
        logits=part["logits"],
    )
    notes = []
    if not part["logits"]:
        notes.append("bert: it has no vocabulary head (to_logits); diffusers makes a fresh one, which nothing uses")
    state = state_of(tensors)
    tokenizer: dict[str, Callable[[], bytes]] = {}
    if state and b"\0" not in state and b"[UNK]" in state:
        tokenizer = _wordpiece_files(state, bool(part["lowercase"]))
    else:
        what = "a SentencePiece tokenizer, which the pipeline cannot hold" if state else "no tokenizer"
        notes.append(f"tokenizer: left out, it is {what}; the pipeline needs one that gives the same numbers")
    own = WrittenPart(class_name=BERT, config=config, tensors=give(weights, tensors, "conditioner text"), notes=notes)
    return WrittenText(part=own, tokenizer=tokenizer, notes=notes)


def _wordpiece_files(state: bytes, lowercase: bool) -> dict[str, Callable[[], bytes]]:
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "mask", "pad", "sep", "unk")}
    settings = {
        "do_lower_case": lowercase,
        "model_max_length": TOKENS,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
        **special,
    }
    return {
        "vocab.txt": lambda: state,
        "special_tokens_map.json": lambda: as_json(special),
        "tokenizer_config.json": lambda: as_json(settings),
    }


def as_json(plain: Mapping[str, Any]) -> bytes:
    """A JSON file as diffusers writes it."""
    return (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode()
