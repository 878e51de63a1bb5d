"""A text encoder with its tokenizer, to be read and to be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from ldm_core.contracts.codec import Source
from ldm_core.errors import CheckpointError
from ldm_plugin_diffusers.component import ReadPart, WrittenPart
from ldm_plugin_diffusers.folder import as_json
from ldm_plugin_diffusers.values import Plain
from ldm_plugin_diffusers.weights import Taken

if TYPE_CHECKING:
    from torch import Tensor

NAME = "text"
"""The conditioner's name in a recipe."""
STATE = "_extra_state"
TOKENS = 77
"""Tokens that the pipelines encode, however many the text encoder could take."""
HUGGING_FACE = (
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "init_std", "initializer_factor"),
    *("initializer_range", "use_cache", "num_hidden_layers", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "encoder_layerdrop"),
    *("projection_dim", "is_encoder_decoder", "id2label", "label2id", "return_dict", "output_attentions"),
)
"""Keys of transformers' config.json without influence on a trained encoder's output."""
Files = Mapping[str, Callable[[], bytes]]


@attrs.frozen(kw_only=True)
class TextEncoder(ReadPart):
    """A conditioner as its config describes it; `state`: its tokenizer's bytes."""

    kind: ClassVar[str] = "conditioner"
    prefix: ClassVar[str] = f"conditioners.{NAME}."
    state: bytes = b""

    @property
    def width(self) -> int:
        """Length of its vectors."""
        return int(self.fields["width"])

    def with_tokenizer(self, state: bytes, **fields: Any) -> TextEncoder:
        """The same with a tokenizer's bytes and settings."""
        return attrs.evolve(self, state=state, fields={**self.fields, **fields})

    def recipe(self) -> dict[str, Any]:
        """Plain recipe values."""
        return {"conditioners": [{"use": self.use, "name": NAME, **self.fields}]}

    def read(self) -> Taken:
        """The tensors under a model's names, the tokenizer's bytes among them."""
        import torch

        taken = super().read()
        kind = torch.uint8
        state = torch.frombuffer(bytearray(self.state), dtype=kind) if self.state else torch.empty(0, dtype=kind)
        return attrs.evolve(taken, tensors={**taken.tensors, self.prefix + STATE: state})


@attrs.frozen(kw_only=True)
class WrittenText:
    """A text encoder and its tokenizer's files; without files, the format cannot hold the tokenizer."""

    part: WrittenPart
    library: str
    tokenizer_class: str
    tokenizer: Files


def state_of(tensors: Mapping[str, Tensor]) -> bytes:
    """The tokenizer's bytes among a conditioner's tensors; empty without one."""
    state = tensors.get(STATE)
    return b"" if state is None or not state.numel() else state.cpu().numpy().tobytes()


def settings_files(special: Mapping[str, str], **settings: Any) -> Files:
    """The two JSON files of a tokenizer: its special tokens, and these with its settings."""
    return {
        "special_tokens_map.json": lambda: as_json(special),
        "tokenizer_config.json": lambda: as_json({**special, **settings}),
    }


def tokenizer_model(source: Source, folder: str, kind: str) -> Plain:
    """The ``model`` of a tokenizer.json; CheckpointError without one of this kind."""
    found = source.config(f"{folder}/tokenizer.json")
    model = found.get("model") if found is not None else None
    if not isinstance(model, Mapping) or model.get("type", kind) != kind:
        raise CheckpointError(f"{source.url}: {folder} has no vocabulary of a {kind} tokenizer; copy the folder again")
    return model


def checked_vocabulary(vocabulary: Any, where: str) -> Sequence[str]:
    """Words by their number; CheckpointError for missing or doubled numbers."""
    if isinstance(vocabulary, Mapping) and vocabulary:
        ids = {number: word for word, number in vocabulary.items() if isinstance(number, int)}
        if len(ids) == len(vocabulary) and set(ids) == set(range(len(ids))):
            return [str(ids[i]) for i in range(len(ids))]
    raise CheckpointError(f"{where}: its vocabulary is no list of words numbered from 0; copy the folder again")
