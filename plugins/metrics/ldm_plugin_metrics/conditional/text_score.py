"""The agreement of pictures and texts by CLIP."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ldm_core.contracts import Pictures, Site
from ldm_core.errors import CheckpointError, ConfigError, DataError, LDMError, PromptWarning, clean
from ldm_core.nn.torchvision_operators import importable
from ldm_core.weights.source import OpenedSource, open_source
from ldm_plugin_metrics.conditional.config import TextScoreConfig
from ldm_plugin_metrics.means import MeanMetric
from ldm_plugin_metrics.networks import weights
from ldm_plugin_metrics.networks.clip import MEAN, STD
from ldm_plugin_metrics.networks.network import rgb, single

_TENSORS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_PLACES = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
_MOST_LAYERS = 200


class TextScore(MeanMetric, nn.Module):
    """The mean cosine of CLIP's embeddings of a picture and its text: from -1 to 1, about 0.3 for captions of
    photographs.

    It is the similarity of Radford et al. 2021 (arXiv 2103.00020). CLIPScore (Hessel et al. 2021, arXiv 2104.08718) is
    2.5 times it where it is above 0, and other programs print 100 times it. Pictures are prepared as CLIP's own: the
    shorter side scaled by Pillow's bicubic filter, the middle cut out. A text beyond the model's tokens is cut, with a
    warning. `weights` is a folder as transformers saves it, with the tokenizer; transformers builds the network, and
    runs no code of the folder. Raises LDMError if transformers cannot be imported, ConfigError without weights or a
    tokenizer, CheckpointError if they do not fit, and StorageError if they cannot be read.
    """

    name = "text_score"
    mean: Tensor
    std: Tensor

    def __init__(self, config: TextScoreConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        if not config.weights:
            raise ConfigError("text_score: weights: the folder of a CLIP model of transformers is missing")
        transformers, source = _transformers(), open_source(config.weights)
        facts = source.config("config.json")
        if not source.folder or facts is None:
            raise ConfigError(f"text_score: weights: {source.url} is no folder of a CLIP model: it has no config.json")
        network: Any = _model(transformers, source, facts)
        self.model, sizes = network, network.config
        self.length, self.side = int(sizes.text_config.max_position_embeddings), int(sizes.vision_config.image_size)
        self.tokenizer = _tokenizer(transformers, source)
        shown = source.config("preprocessor_config.json") or {}
        for name, key, default in (("mean", "image_mean", MEAN), ("std", "image_std", STD)):
            value = torch.tensor(shown.get(key) or default, dtype=torch.float32)
            self.register_buffer(name, value.view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()
        digest = source.sha256()
        self.label = f"CLIP cosine (weights {digest[:8]})"
        self.source = f"cosine of CLIP's embeddings, sha256 {digest}, Pillow bicubic {self.side}, key {config.text}"

    def train(self, mode: bool = True) -> TextScore:
        """Do nothing: the network is always in eval mode."""
        return super().train(False)

    def measure(self, pictures: Pictures) -> dict[str, NDArray[np.float64]]:
        """One cosine a picture."""
        texts = pictures.examples[self.config.text]
        if isinstance(texts, Tensor) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"text_score: '{self.config.text}' is no text; name the key of one with `text`")
        pixels = self._pixels(pictures.images)
        with torch.inference_mode(), torch.autocast(pixels.device.type, enabled=False), single(pixels.device):
            found = self.model(pixel_values=pixels, **self._tokens(list(texts), pixels.device))
        cosine = (found.image_embeds.double() * found.text_embeds.double()).sum(1)  # both have length 1
        return {"text_score": cosine.cpu().numpy()}

    def _tokens(self, texts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        whole = self.tokenizer(texts)["input_ids"]
        if long := [text for text, ids in zip(texts, whole, strict=True) if len(ids) > self.length]:
            warnings.warn(
                f"text_score: CLIP reads {self.length} tokens, and the rest of '{clean(long[0], 60)}' is left out",
                PromptWarning,
                stacklevel=2,
            )
        found = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {key: found[key].to(device) for key in ("input_ids", "attention_mask")}

    def _pixels(self, images: Tensor) -> Tensor:
        """Pictures (B, c, H, W) as CLIP sees them, (B, 3, side, side)."""
        made = [self._prepared(each) for each in rgb(images).permute(0, 2, 3, 1).cpu().numpy()]
        x = torch.from_numpy(np.stack(made)).to(images.device).permute(0, 3, 1, 2).float() / 255
        return (x - self.mean) / self.std

    def _prepared(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        scale = self.side / min(height, width)
        size = [self.side if each == min(height, width) else int(scale * each) for each in (width, height)]
        scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        top, left = (scaled.shape[0] - self.side) // 2, (scaled.shape[1] - self.side) // 2
        return scaled[top : top + self.side, left : left + self.side]


def _transformers() -> Any:
    try:
        with importable():
            import transformers
    except ImportError as error:
        raise LDMError(f"text_score needs transformers ({clean(error)}): pip install transformers") from error
    return transformers


def _model(transformers: Any, source: OpenedSource, facts: Mapping[str, Any]) -> nn.Module:
    """The network of a folder, built of its sizes alone, and its tensors."""
    parts = {key: facts.get(key) or {} for key in ("text_config", "vision_config")}
    layers = [part.get("num_hidden_layers", 12) if isinstance(part, Mapping) else 0 for part in parts.values()]
    if not all(isinstance(count, int) and 0 < count <= _MOST_LAYERS for count in layers):
        raise CheckpointError(f"text_score: {source.url}/config.json is of no CLIP with 1 to {_MOST_LAYERS} layers")
    name = next((name for name in _TENSORS if name in source.names), "")
    if not name:
        raise CheckpointError(f"text_score: {source.url} holds none of {', '.join(_TENSORS)}")
    file = source.tensors(name)
    try:
        config = transformers.CLIPConfig(**parts, projection_dim=facts.get("projection_dim", 512))
        with torch.device("meta"):  # no memory for sizes that the file does not have
            model: nn.Module = transformers.CLIPModel(config)
    except (TypeError, ValueError, ZeroDivisionError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"text_score: {source.url}/config.json makes no CLIP ({clean(error)})") from error
    tensors = {key: file.read(key) for key in file.infos}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of copies to nowhere
        weights.fit(model, tensors, "CLIP's two towers", _PLACES)
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False, assign=True)
    for module, key in ((m, k) for m in model.modules() for k, b in m.named_buffers(recurse=False) if b.is_meta):
        count = module.get_buffer(key).shape[-1]
        module.register_buffer(key, torch.arange(count).expand(1, -1), persistent=False)
    return model


def _tokenizer(transformers: Any, source: OpenedSource) -> Any:
    """The tokenizer of a folder, read of copies of its files of words alone."""
    with tempfile.TemporaryDirectory() as folder:
        for name in _TOKENIZER:
            data = source.text(name) if name in source.names else None
            if data is not None:
                Path(folder, name).write_bytes(data)
        if not any(Path(folder, name).exists() for name in _TOKENIZER[:2]):
            raise ConfigError(
                f"text_score: {source.url} holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt"
            )
        try:
            return transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the tokenizers' library raises Exception itself
            raise ConfigError(f"text_score: the tokenizer in {source.url} does not read ({clean(error)})") from error
