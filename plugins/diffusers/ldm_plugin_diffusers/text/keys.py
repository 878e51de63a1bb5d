"""The text encoders' weights: LDMBertModel's and CLIPTextModel's."""

from __future__ import annotations

from collections.abc import Iterator

from ldm_plugin_diffusers.weights import Weight, linear, norm


def bert_weights(*, vocab: int, width: int, layers: int, inner: int, length: int, logits: bool) -> list[Weight]:
    """The transformer of the `text` conditioner; `inner`: heads times their width."""
    return list(_bert(vocab, width, layers, inner, length, logits))


def _bert(vocab: int, width: int, layers: int, inner: int, length: int, logits: bool) -> Iterator[Weight]:
    yield Weight("transformer.token_emb.weight", ("model.embed_tokens.weight",), (vocab, width))
    yield Weight("transformer.pos_emb.emb.weight", ("model.embed_positions.weight",), (length, width))
    for layer in range(layers):
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
    if logits:
        yield from linear("transformer.to_logits", "to_logits", width, vocab)


def clip_weights(*, vocab: int, width: int, inner: int, layers: int, length: int) -> list[Weight]:
    """The text tower of CLIP; `inner`: the feed-forward's width. Their names as published, with ``text_model.``."""
    return list(_clip(vocab, width, inner, layers, length))


def _clip(vocab: int, width: int, inner: int, layers: int, length: int) -> Iterator[Weight]:
    a, b = "transformer.text_model", "text_model"
    for name, rows in (("token_embedding", vocab), ("position_embedding", length)):
        yield Weight(f"{a}.embeddings.{name}.weight", (f"{b}.embeddings.{name}.weight",), (rows, width))
    for layer in range(layers):
        at = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{a}.{at}.self_attn.{name}", f"{b}.{at}.self_attn.{name}", width, width)
        for name in ("layer_norm1", "layer_norm2"):
            yield from norm(f"{a}.{at}.{name}", f"{b}.{at}.{name}", width)
        yield from linear(f"{a}.{at}.mlp.fc1", f"{b}.{at}.mlp.fc1", width, inner)
        yield from linear(f"{a}.{at}.mlp.fc2", f"{b}.{at}.mlp.fc2", inner, width)
    yield from norm(f"{a}.final_layer_norm", f"{b}.final_layer_norm", width)
