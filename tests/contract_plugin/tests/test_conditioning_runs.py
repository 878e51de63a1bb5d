"""Tokens that join by width, named sets, drawn noise and picture sizes: trained, and sampled in every way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ldm_contract_plugin.conditioning.config import NoisySmallConfig
from ldm_contract_plugin.conditioning.noisy_small import NoisySmall
from ldm_contract_plugin.conditioning.sizes import Sizes
from one_thread import each_module as _one_thread  # noqa: F401
from picture_folders import pictures
from PIL import Image
from together import together
from training_runs import TINY, Watch, go, weights

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.contracts import SIZE_KEYS, Cond
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.data.images import png_bytes
from ldm_core.errors import ConfigError, DataError, Interrupted
from ldm_core.recipe.check import check, site_of
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline

FEW: dict[str, Any] = {**TINY["trainer"], "steps": 3, "validate_images": 4}
STAGES = ("first_stage", "latents", "denoiser")
PICTURE = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
GUIDED: dict[str, Any] = {"guidance": {"use": "cfg", "scale": 3.0}}


def trained(base: Path, **changes: Any) -> str:
    """The folder of a run of few steps, by the command line."""
    recipe = base / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "trainer": FEW, **changes}))
    assert main(["--recipe", str(recipe), "--out", str(base / "run")]) == 0
    return str(base / "run")


def bits(pipeline: Pipeline, **arguments: Any) -> list[np.ndarray]:
    """The pictures of a call, which two threads at once make as well."""
    alone = [made.image for made in pipeline.sample(**arguments)]
    for made in together([lambda: pipeline.sample(**arguments)] * 2):
        assert all(np.array_equal(a, b.image) for a, b in zip(alone, made, strict=True))
    return alone


def differ(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return any(not np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ----------------------------------------------------------------------------------- tokens that join by width


THREE: list[dict[str, Any]] = [
    {"use": "letters", "name": "narrow", "width": 3, "padded": True, "join": "width"},
    {"use": "letters", "name": "wide", "width": 5, "padded": True, "join": "width", "pad_to": 12, "dropout": 0.5},
    {"use": "letters", "name": "long", "width": 12, "dropout": 0.5},
]


def test_two_texts_stand_side_by_side_and_a_third_follows(tmp_path: Path) -> None:
    out = trained(tmp_path, conditioners=THREE, **GUIDED)
    assert site_of(ldm_core.load(out, device="cpu").recipe).cond.crossattn == 12
    assert main(["sample", out, "--prompt", "a red star", "--images", "2", "--out", str(tmp_path / "made")]) == 0
    assert len(list((tmp_path / "made").glob("0*.png"))) == 2
    pipeline = ldm_core.load(out, device="cpu")
    model = pipeline.model
    with torch.no_grad():
        conds = model.encode({"caption": ["red", "a star"]})
        merged = model.merged(conds)
    assert merged.crossattn is not None and merged.crossattn.shape == (2, 16 + 6, 12)
    assert torch.equal(merged.crossattn[:, :16, :3], conds["narrow"].crossattn)  # type: ignore[arg-type]
    assert torch.equal(merged.crossattn[:, :16, 3:8], conds["wide"].crossattn)  # type: ignore[arg-type]
    assert not merged.crossattn[:, :16, 8:].any()
    assert torch.equal(merged.crossattn[:, 16:], conds["long"].crossattn)  # type: ignore[arg-type]
    assert merged.crossattn_mask is not None and merged.crossattn_mask.sum(1).tolist() == [16 + 3, 16 + 6]
    made = bits(pipeline, prompts=["a red star", "a blue ring beside it"], seed=3, steps=3)
    assert differ(made, bits(pipeline, prompts=["a red star", "a blue ring beside it"], seed=3, steps=3, guidance=9.0))
    longer = bits(pipeline, prompts=["a", "b"], negative="many more letters", seed=3, steps=3)  # another length
    assert longer[0].shape == (3, 16, 16)


def test_widths_that_do_not_join_are_told_before_a_run() -> None:
    catalog = Catalog.discover()
    with pytest.raises(ConfigError) as caught:
        check(resolve({**TINY, "conditioners": [*THREE[:2], {**THREE[2], "width": 10}]}, catalog))
    assert "conditioners 'narrow' and 'wide' have together cross-attention width 12 and 'long' 10" in str(caught.value)
    with pytest.raises(ConfigError, match=r"'wide' pads its tokens to width 7, and 'narrow' .3. and 'wide' .5. make 8"):
        check(resolve({**TINY, "conditioners": [THREE[0], {**THREE[1], "pad_to": 7}]}, catalog))


# ---------------------------------------------------------------------------------------- named sets of tokens


ROLES: dict[str, Any] = {
    "denoiser": {"use": "two_roles"},
    "conditioners": [
        {"use": "letters", "name": "words", "role": "text", "dropout": 0.4},
        {"use": "patches", "dropout": 0.4},
    ],
}


def test_text_and_picture_are_attended_to_apart(tmp_path: Path) -> None:
    out = trained(tmp_path, **ROLES, **GUIDED)
    moved = weights(out)
    assert bool(moved["denoiser.text.to_k.weight"].any()) and "conditioners.patches.empty" in moved
    (tmp_path / "seen.png").write_bytes(png_bytes(PICTURE))
    line = [
        "sample",
        out,
        "--prompt",
        "a star",
        "--input",
        f"image=@{tmp_path / 'seen.png'}",
        "--negative",
        "a long one",
    ]
    assert main([*line, "--images", "2", "--seed", "5", "--out", str(tmp_path / "made")]) == 0
    pipeline = ldm_core.load(out, device="cpu")
    asked: dict[str, Any] = {"prompts": ["a star", "ring"], "inputs": {"image": PICTURE}, "seed": 5, "steps": 3}
    made = bits(pipeline, **asked)
    assert differ(made, bits(pipeline, **{**asked, "inputs": {"image": 255 - PICTURE}}))
    assert differ(made, bits(pipeline, **{**asked, "prompts": ["a ring", "star"]}))
    away = bits(pipeline, **asked, negative="a caption of another length")  # its tokens are padded to one length
    assert differ(made, away)
    apart = pipeline.with_settings({"sample": {"branches": "apart"}})
    one_by_one = bits(apart, **asked, negative="a caption of another length")
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(away, one_by_one, strict=True)) <= 1
    alone = pipeline.sample(**{**asked, "prompts": ["ring"], "seed": 6})[0].image  # unpadded, as it is alone
    assert np.abs(alone.astype(int) - made[1]).max() <= 1


def test_tokens_that_nobody_takes_are_an_error() -> None:
    catalog = Catalog.discover()
    with pytest.raises(ConfigError) as caught:
        check(resolve({**TINY, **ROLES, "denoiser": TINY["denoiser"]}, catalog))
    assert "conditioner 'words' writes the tokens 'text' and no denoiser" in str(caught.value)
    assert "conditioner 'patches' writes the tokens 'picture' and no denoiser" in str(caught.value)
    misspelt = [{**ROLES["conditioners"][0], "role": "texts"}, ROLES["conditioners"][1]]
    with pytest.raises(ConfigError, match=r"tokens 'texts'.*did you mean 'text'.*they take: picture, text"):
        check(resolve({**TINY, **ROLES, "conditioners": misspelt}, catalog))
    other = [*ROLES["conditioners"], {**ROLES["conditioners"][0], "name": "more", "width": 5}]
    with pytest.raises(ConfigError, match="'words' writes the tokens 'text' with width 8 and 'more' with 5"):
        check(resolve({**TINY, **ROLES, "conditioners": other}, catalog))
    with pytest.raises(ConfigError, match="needs the tokens 'picture'; add a conditioner"):
        check(resolve({**TINY, **ROLES, "conditioners": ROLES["conditioners"][:1]}, catalog))


def test_two_conditioners_write_one_set_in_turn(tmp_path: Path) -> None:
    more = [*ROLES["conditioners"], {"use": "letters", "name": "more", "role": "text"}]
    out = trained(tmp_path, denoiser=ROLES["denoiser"], conditioners=more)
    pipeline = ldm_core.load(out, device="cpu")
    with torch.no_grad():
        batch = {"caption": ["abc", "a"], "image": torch.zeros(2, 3, 16, 16)}
        tokens = pipeline.model.merged(pipeline.model.encode(batch)).tokens
    assert tokens["text"].values.shape == (2, 6, 8) and tokens["picture"].values.shape == (2, 4, 6)
    assert tokens["text"].attended.tolist() == [[True] * 6, [True, False, False, True, False, False]]


# ------------------------------------------------------------------------------------------------ drawn noise


SMALL: dict[str, Any] = {"conditioners": ["noisy_small"]}


@pytest.fixture()
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...] | None]:
    """The seeds of the streams that the conditioner was handed, in turn."""
    seen: list[tuple[int, ...] | None] = []
    plain = NoisySmall.encode

    def encode(self: NoisySmall, batch: Mapping[str, Any], *, streams: Streams | None = None) -> Cond:
        seen.append(None if streams is None else streams.seeds)
        return plain(self, batch, streams=streams)

    monkeypatch.setattr(NoisySmall, "encode", encode)
    return seen


def test_noise_is_drawn_for_each_example_in_training_and_validation(tmp_path: Path, drawn: list[Any]) -> None:
    first = go(tmp_path / "a", **SMALL, trainer=FEW)
    seeds = list(drawn)
    assert seeds and None not in seeds, "a caller left the streams out"
    training = [s for s in seeds if len(s) == 4][:3]
    assert len({seed for step in training for seed in step}) == 12, "examples share a stream"
    again = go(tmp_path / "b", **SMALL, trainer=FEW)
    assert first.losses == again.losses and drawn[len(seeds) :] == seeds
    before = len(drawn)
    halves = go(tmp_path / "c", **SMALL, trainer={**FEW, "accumulate": 2})
    parts = [seed for part in drawn[before : before + 6] for seed in part]
    assert parts == [seed for step in training for seed in step], "micro-batches draw from other streams"
    assert np.allclose(halves.losses["denoiser"], first.losses["denoiser"], rtol=1e-4)


def test_noise_goes_on_where_a_run_was_stopped(tmp_path: Path) -> None:
    whole = {**FEW, "steps": 6, "checkpoint_every": 2}
    go(tmp_path / "whole", **SMALL, trainer=whole)
    with pytest.raises(Interrupted):
        go(tmp_path / "stopped", **SMALL, trainer=whole, watch=Watch(("denoiser", 3)))
    go(tmp_path / "stopped", **SMALL, trainer=whole)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_conditioner_that_draws_changes_no_other_random_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At level 0 what it draws does not matter: then the run is that of one that draws nothing, bit for bit."""
    silent: dict[str, Any] = {"conditioners": [{"use": "noisy_small", "most": 0.0}], "trainer": FEW}
    go(tmp_path / "draws", **silent)
    monkeypatch.setattr(NoisySmallConfig, "draws", False)
    go(tmp_path / "plain", **silent)
    draws, plain = weights(tmp_path / "draws"), weights(tmp_path / "plain")
    assert draws.keys() == plain.keys() and all(torch.equal(draws[k], plain[k]) for k in plain)
    made = [
        ldm_core.load(str(tmp_path / n), device="cpu").sample(inputs={"image": PICTURE}) for n in ("draws", "plain")
    ]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(*made, strict=True))


def test_noise_follows_the_images_seed_in_sampling(tmp_path: Path, drawn: list[Any]) -> None:
    out = trained(tmp_path, **SMALL)
    (tmp_path / "seen.png").write_bytes(png_bytes(PICTURE))
    line = [
        "sample",
        out,
        "--input",
        f"image=@{tmp_path / 'seen.png'}",
        "--seeds",
        "8,9",
        "--out",
        str(tmp_path / "made"),
    ]
    del drawn[:]
    assert main(line) == 0
    wanted = tuple(mix_seed("conditioner", "noisy_small", seed) for seed in (8, 9))
    assert drawn == [wanted]
    pipeline = ldm_core.load(out, device="cpu")
    two = bits(pipeline, inputs={"image": PICTURE}, seed=[8, 9], steps=3)
    alone = pipeline.sample(inputs={"image": PICTURE}, seed=[9], steps=3)[0].image
    assert np.abs(alone.astype(int) - two[1]).max() <= 1
    with torch.no_grad():
        batch = {"image": torch.from_numpy(PICTURE)[None].repeat(2, 1, 1, 1) / 127.5 - 1}
        cond, plain = (pipeline.model.encode(batch, seeds=s)["noisy_small"] for s in ((8, 9), None))
    assert cond.concat is not None and plain.concat is not None and plain.vector is not None
    assert not torch.equal(cond.concat[0], cond.concat[1]), "two seeds, one noise"
    assert torch.equal(plain.concat[0], plain.concat[1]) and torch.equal(plain.concat, batch["image"])
    assert torch.equal(plain.vector[0], plain.vector[1])


def test_a_second_model_sees_the_noise_of_the_first(tmp_path: Path, drawn: list[Any]) -> None:
    out = trained(tmp_path, **SMALL)
    del drawn[:]
    guided = ldm_core.load(out, device="cpu").with_settings({"guidance": {"use": "autoguidance", "model": out}})
    guided.sample(inputs={"image": PICTURE}, seed=[4, 7], steps=2)
    assert len(drawn) == 2 and drawn[0] == drawn[1] and None not in drawn
    bits(guided, inputs={"image": PICTURE}, seed=[4, 7], steps=2)


# ----------------------------------------------------------------------------------------------- picture sizes


@pytest.fixture()
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The six numbers of each example that the conditioner was handed."""
    found: list[list[Any]] = []
    plain = Sizes.encode

    def encode(self: Sizes, batch: Mapping[str, Any]) -> Cond:
        assert all(batch[key].dtype == torch.int64 for key in SIZE_KEYS)
        found.extend(torch.cat([batch[key] for key in SIZE_KEYS], 1).tolist())
        return plain(self, batch)

    monkeypatch.setattr(Sizes, "encode", encode)
    return found


KNOWN = {
    (16, 16, 0, 0, 16, 16),
    (32, 16, 8, 0, 16, 16),
    (16, 40, 0, 12, 16, 16),
    (64, 64, 0, 0, 16, 16),
    (24, 48, 0, 8, 16, 16),
    (16, 20, 0, 2, 16, 16),
}
"""The six numbers of each, cut in the middle."""
SIZED: dict[str, Any] = {"conditioners": ["sizes", {"use": "class_label", "width": 8}]}


def test_sizes_are_those_of_the_data_and_of_what_is_sampled(tmp_path: Path, seen: list[Any]) -> None:
    out = trained(tmp_path, **SIZED, dataset=pictures(tmp_path / "data"), sample={"steps": 2, "images": 2})
    during = {tuple(row) for row in seen}
    assert during <= KNOWN and len(during) == 6
    assert (Path(out) / "latents").exists(), "the images were to be encoded once"
    del seen[:]
    assert main(["sample", out, "--class", "a", "--images", "2", "--out", str(tmp_path / "made")]) == 0
    assert seen == [[16, 16, 0, 0, 16, 16]] * 2
    del seen[:]
    made = Image.open(next((tmp_path / "made").glob("0*.png")))
    assert made.text["original_size"] == "16, 16" and made.text["crop_offset"] == "0, 0"  # type: ignore[attr-defined]
    small = ["--input", "original_size=[4, 6]", "--input", "crop_offset=[0, 3]"]
    assert main(["sample", out, "--class", "a", *small, "--images", "1", "--out", str(tmp_path / "small")]) == 0
    assert seen == [[4, 6, 0, 3, 16, 16]]
    pipeline = ldm_core.load(out, device="cpu")
    asked: dict[str, Any] = {"seed": 3, "steps": 3}
    plain = bits(pipeline, inputs={"class_label": 0}, **asked)
    given = {"class_label": 0, "original_size": (16, 16), "crop_offset": [0, 0], "target_size": np.array([16, 16])}
    assert not differ(plain, bits(pipeline, inputs=given, **asked))
    tiny, whole = (
        pipeline.sample(inputs={**given, "original_size": n}, **asked)[0].latents for n in ([4, 4], [16, 16])
    )
    assert tiny is not None and whole is not None
    assert not np.array_equal(tiny, whole), "the original size does not reach the network"
    with pytest.raises(DataError, match=r"'original_size' is .*; two numbers are needed"):
        pipeline.sample(inputs={**given, "original_size": [4, 4, 3]})


def test_sizes_are_the_same_with_and_without_cached_latents(tmp_path: Path, seen: list[Any]) -> None:
    data: dict[str, Any] = {"dataset": pictures(tmp_path / "data"), "data": {"flip": True}}
    rows = []
    for name in ("apart", "cached", "worker"):
        data["data"]["workers"] = int(name == "worker")
        go(
            tmp_path / name,
            **SIZED,
            **data,
            trainer={**FEW, "cache_latents": name != "apart"},
            stages=STAGES,
        )
        rows.append(list(seen))
        del seen[:]
    assert rows[0] == rows[1] and sorted(rows[0])[0] == [16, 16, 0, 0, 16, 16]
    assert rows[2] == rows[0]


def test_random_cuts_and_buckets_tell_their_own(tmp_path: Path, seen: list[Any]) -> None:
    data: dict[str, Any] = {"dataset": pictures(tmp_path / "data"), "data": {"crop": "random", "buckets": [[16, 32]]}}
    go(tmp_path / "run", **SIZED, **data, trainer={**FEW, "steps": 8}, stages=STAGES)
    assert {tuple(row[4:]) for row in seen} == {(16, 16), (16, 32)}
    assert len({tuple(row[2:4]) for row in seen}) > 6, "cuts all lie at the same places"
    assert {tuple(row[:2]) for row in seen} == {known[:2] for known in KNOWN}


def test_pictures_that_are_drawn_on_the_spot_have_sizes_too(tmp_path: Path, seen: list[Any]) -> None:
    go(tmp_path / "run", conditioners=["sizes"], trainer=FEW)
    assert {tuple(row) for row in seen} == {(16, 16, 0, 0, 16, 16)}
