"""Named sets of tokens in a bundle, and conditioners whose tokens join by width."""

from __future__ import annotations

import pytest
import torch

from ldm_core.contracts import CondSpec, Tokens
from ldm_core.contracts.conditioning import Cond, Conditions, mask_of


def named(rows: int, length: int, *, shown: int | None = None, width: int = 3, start: float = 1.0) -> Cond:
    """A set ``image`` of numbers from `start` on, with a mask of the first `shown`."""
    values = torch.arange(rows * length * width, dtype=torch.float32).view(rows, length, width) + start
    mask = None if shown is None else (torch.arange(length) < shown).expand(rows, length)
    return Cond(tokens={"image": Tokens(values, mask)})


def crossattn(length: int, width: int, value: float, shown: int | None = None) -> Cond:
    mask = None if shown is None else (torch.arange(length) < shown)[None]
    return Cond(crossattn=torch.full((1, length, width), value), crossattn_mask=mask)


def shape(cond: Cond) -> tuple[int, ...]:
    assert cond.crossattn is not None
    return tuple(cond.crossattn.shape)


def test_named_tokens_are_flat_and_back() -> None:
    cond = Cond(vector=torch.ones(2, 1), tokens={"a/b": Tokens(torch.ones(2, 1, 3)), **named(2, 4, shown=2).tokens})
    assert list(cond.flat()) == ["vector", "tokens/a/b", "tokens/image", "tokens_mask/image"]
    back = cond.unflat(cond.flat())
    assert back.tokens.keys() == {"a/b", "image"} and back.tokens["a/b"].mask is None
    assert torch.equal(back.tokens["image"].mask, cond.tokens["image"].mask)  # type: ignore[arg-type]
    assert cond.to("cpu").tokens["image"].values.equal(cond.tokens["image"].values) and cond.rows() == 2
    with pytest.raises(TypeError):
        Cond().tokens["mine"] = cond.tokens["image"]  # type: ignore[index]


def test_each_set_of_tokens_has_a_mask_of_its_name() -> None:
    assert [mask_of(p) for p in ("crossattn", "tokens/a/b", "vector", "extras/tokens", "crossattn_mask")] == [
        "crossattn_mask", "tokens_mask/a/b", None, None, None
    ]  # fmt: skip


def test_where_picks_rows_of_named_tokens_with_their_masks() -> None:
    a, b = named(2, 3, shown=3), named(2, 3, shown=1, start=100.0)
    chosen = a.where(torch.tensor([True, False]), b).tokens["image"]
    assert chosen.values[0].equal(a.tokens["image"].values[0]) and chosen.values[1].equal(b.tokens["image"].values[1])
    assert chosen.attended.tolist() == [[True] * 3, [True, False, False]]
    with pytest.raises(ValueError, match=r"different parts.*tokens_mask/image"):
        a.where(torch.tensor([True, False]), named(2, 3))


def test_two_conditioners_write_one_set_along_its_length() -> None:
    merged = Cond.merge([named(1, 2), Cond(vector=torch.ones(1, 1)), named(1, 3, shown=1)]).tokens["image"]
    assert merged.values.shape == (1, 5, 3)
    assert merged.attended.tolist() == [[True, True, True, False, False]]
    alone = Cond.merge([named(1, 2), Cond(tokens={"text": Tokens(torch.ones(1, 4, 9))})])
    assert alone.tokens["image"].mask is None and alone.tokens["text"].values.shape == (1, 4, 9)


def test_batch_pads_named_tokens_and_masks_the_padding() -> None:
    both = Cond.batch([named(1, 2), named(2, 4, shown=3)]).tokens["image"]
    assert both.values.shape == (3, 4, 3) and not both.values[0, 2:].any()
    assert both.attended.tolist() == [[True, True, False, False], *[[True, True, True, False]] * 2]
    assert Cond.batch([named(1, 2), named(1, 2)]).tokens["image"].mask is None
    with pytest.raises(ValueError, match="different parts"):
        Cond.batch([named(1, 2), Cond(tokens={"text": Tokens(torch.ones(1, 2, 3))})])


def test_neighbours_join_by_width_and_the_rest_follows() -> None:
    specs = {
        "clip_l": CondSpec(crossattn=2, join="width"),
        "size": CondSpec(vector=4),  # writes no tokens: the two are neighbours all the same
        "clip_g": CondSpec(crossattn=3, join="width", pad_to=7),
        "t5": CondSpec(crossattn=7),
    }
    conds = [crossattn(2, 2, 1.0), Cond(vector=torch.ones(1, 4)), crossattn(2, 3, 2.0), crossattn(3, 7, 3.0)]
    merged, spec = Cond.merge(conds, specs.values()), CondSpec.merge(specs)
    assert spec.crossattn == 7 and (spec.join, spec.pad_to) == ("length", 0)
    assert shape(merged) == (1, 5, 7) and merged.crossattn_mask is None and merged.vector is not None
    assert merged.crossattn is not None
    assert merged.crossattn[0, 0].tolist() == [1, 1, 2, 2, 2, 0, 0] and merged.crossattn[0, 4].tolist() == [3] * 7


def test_the_published_texts_of_two_and_three_encoders_have_their_widths() -> None:
    clip_l, clip_g = CondSpec(crossattn=768, join="width"), CondSpec(crossattn=1280, join="width")
    assert CondSpec.merge({"clip_l": clip_l, "clip_g": clip_g}).crossattn == 2048  # SDXL
    padded = CondSpec(crossattn=1280, join="width", pad_to=4096)
    specs = {"clip_l": clip_l, "clip_g": padded, "t5": CondSpec(crossattn=4096)}  # SD 3
    tokens = [torch.zeros(1, 77, 768), torch.zeros(1, 77, 1280), torch.zeros(1, 77, 4096)]
    assert CondSpec.merge(specs).crossattn == 4096
    assert shape(Cond.merge([Cond(crossattn=t) for t in tokens], specs.values())) == (1, 154, 4096)


def test_one_that_joins_by_length_may_be_padded_too() -> None:
    spec = CondSpec(crossattn=2, pad_to=4)
    one = Cond.merge([crossattn(2, 2, 1.0, shown=1)], [spec])
    assert CondSpec.merge({"it": spec}).crossattn == 4 and one.crossattn is not None
    assert one.crossattn[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert one.crossattn_mask is not None and one.crossattn_mask.tolist() == [[True, False]]


def test_side_by_side_a_hidden_half_is_zero_and_a_token_counts_while_one_half_does() -> None:
    wide = [CondSpec(crossattn=2, join="width"), CondSpec(crossattn=1, join="width")]
    merged = Cond.merge([crossattn(4, 2, 1.0, shown=1), crossattn(3, 1, 2.0, shown=2)], wide)
    assert merged.crossattn is not None and merged.crossattn_mask is not None
    assert merged.crossattn[0].tolist() == [[1, 1, 2], [0, 0, 2], [0, 0, 0], [0, 0, 0]]
    assert merged.crossattn_mask.tolist() == [[True, True, False, False]]
    uneven = Cond.merge([crossattn(1, 2, 1.0), crossattn(2, 1, 2.0)], wide)
    assert uneven.crossattn is not None and uneven.crossattn[0].tolist() == [[1, 1, 2], [0, 0, 2]]
    assert uneven.crossattn_mask is None


def test_by_default_bundles_merge_as_they_always_did() -> None:
    conds = [crossattn(2, 3, 1.0, shown=1), Cond(vector=torch.ones(1, 2)), crossattn(1, 3, 2.0)]
    specs = [CondSpec(crossattn=3), CondSpec(vector=2), CondSpec(crossattn=3)]
    plain, told = Cond.merge(conds).flat(), Cond.merge(conds, specs).flat()
    assert list(plain) == list(told) and all(plain[k].equal(told[k]) for k in plain)


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (
            {"a": CondSpec(crossattn=4), "b": CondSpec(crossattn=6)},
            "'a' has cross-attention width 4 and 'b' 6; set one width for both, e.g. conditioners.b.width=4",
        ),
        (
            {
                "a": CondSpec(crossattn=4, join="width"),
                "b": CondSpec(crossattn=6, join="width"),
                "c": CondSpec(crossattn=8),
            },
            r"'a' and 'b' have together cross-attention width 10 and 'c' 8.*pad_to",
        ),
        (
            {"a": CondSpec(crossattn=4, join="width"), "b": CondSpec(crossattn=6, join="width", pad_to=9)},
            r"'b' pads its tokens to width 9, and 'a' \(4\) and 'b' \(6\) make 10; set a pad_to of at least 10",
        ),
        (
            {"a": CondSpec(crossattn=4, join="width", pad_to=16), "b": CondSpec(crossattn=6, join="width", pad_to=32)},
            "padded 'a' to 16 and 'b' to 32",
        ),
        (
            {"a": CondSpec(tokens={"image": 4}), "b": CondSpec(tokens={"image": 6})},
            "'a' writes the tokens 'image' with width 4 and 'b' with 6",
        ),
    ],
)
def test_specs_that_do_not_join_name_both_conditioners(specs: dict[str, CondSpec], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CondSpec.merge(specs)


def test_a_spec_knows_two_ways_to_join() -> None:
    with pytest.raises(ValueError, match="join"):
        CondSpec(crossattn=4, join="depth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pad_to"):
        CondSpec(crossattn=4, pad_to=-1)


def test_specs_that_are_not_of_the_bundles_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bundles \['0', '1'\] hold crossattn, and specs \['0'\] declare it"):
        Cond.merge([crossattn(1, 2, 1.0)] * 2, [CondSpec(crossattn=2, pad_to=4)])


def test_a_runs_conditions_join_as_the_specs_say_and_keep_the_seeds() -> None:
    conds = {"a": crossattn(2, 2, 1.0), "b": crossattn(2, 3, 2.0)}
    nulls = {name: cond.map(torch.zeros_like) for name, cond in conds.items()}
    specs = {"a": CondSpec(crossattn=2, join="width"), "b": CondSpec(crossattn=3, join="width")}
    run = Conditions(conds, nulls, specs=specs, seeds=[5])
    assert shape(run.cond) == shape(run.null) == (1, 2, 5) and run.pick(["a"]) is run.pick(["a"])
    half = run.pick(["a"]).crossattn
    assert half is not None and half[0, 0].tolist() == [1, 1, 0, 0, 0]
    assert run.seeds == (5,) and Conditions(conds, nulls).seeds is None
    made = [run.again(lambda batch: object(), "mine") for _ in range(2)]
    assert made[0] is made[1]
