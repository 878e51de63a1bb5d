"""The conditioning bundle: merging, batching, choosing rows, and a run's conditions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ldm_core.contracts.conditioning import Cond, Conditions


def full(rows: int = 2) -> Cond:
    base = torch.arange(rows * 24, dtype=torch.float32).view(rows, 24)
    return Cond(
        crossattn=base.view(rows, 4, 6),
        crossattn_mask=torch.ones(rows, 4, dtype=torch.bool),
        vector=base[:, :5],
        concat=base[:, :12].reshape(rows, 3, 2, 2),
        residuals={"mid": base[:, :4].view(rows, 1, 2, 2)},
        extras={"t5": base[:, :6].view(rows, 2, 3), "fps": base[:, 0]},
        options={"strength": 0.5},
    )


def equal(a: Cond, b: Cond) -> bool:
    mine, theirs = a.flat(), b.flat()
    return (
        mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine) and a.options == b.options
    )


def test_flat_and_back() -> None:
    cond = full()
    names = ["crossattn", "crossattn_mask", "vector", "concat", "residuals/mid", "extras/t5", "extras/fps"]
    assert list(cond.flat()) == names
    assert equal(cond.unflat(cond.flat()), cond)
    assert Cond().flat() == {} and equal(Cond().unflat({}), Cond())


def test_unflat_keeps_slashes_in_names() -> None:
    cond = Cond(extras={"a/b": torch.ones(1, 2)})
    assert list(cond.flat()) == ["extras/a/b"]
    assert list(cond.unflat(cond.flat()).extras) == ["a/b"]


def test_defaults_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Cond().extras["mine"] = torch.ones(1)  # type: ignore[index]


def test_map_and_rows() -> None:
    doubled = full().map(lambda v: v * 2 if v.is_floating_point() else v)
    assert torch.equal(doubled.extras["fps"], full().extras["fps"] * 2)
    assert doubled.options == {"strength": 0.5}
    assert full(3).rows() == 3
    assert Cond().rows() is None
    assert equal(full().to("cpu"), full())


def test_where_chooses_rows() -> None:
    a, b = full(3), full(3).map(lambda v: -v if v.is_floating_point() else ~v)
    keep = torch.tensor([True, False, True])
    chosen = a.where(keep, b)
    for name, value in chosen.flat().items():
        assert torch.equal(value[0], a.flat()[name][0]) and torch.equal(value[2], a.flat()[name][2])
        assert torch.equal(value[1], b.flat()[name][1])


def test_where_needs_equal_parts_and_shapes() -> None:
    keep = torch.tensor([True, False])
    with pytest.raises(ValueError, match=r"different parts.*vector"):
        full().where(keep, full()._replace(vector=None))
    with pytest.raises(ValueError, match=r"'vector' has shapes \(2, 5\) and \(2, 4\)"):
        full().where(keep, full()._replace(vector=torch.ones(2, 4)))


def test_merge() -> None:
    one = Cond(crossattn=torch.ones(2, 3, 4), vector=torch.ones(2, 1), residuals={"mid": torch.ones(2, 1)})
    two = Cond(crossattn=2 * torch.ones(2, 2, 4), vector=2 * torch.ones(2, 2), concat=torch.ones(2, 1, 4, 4))
    three = Cond(residuals={"mid": torch.ones(2, 1), "in.0": torch.ones(2, 1)}, extras={"t5": torch.ones(2, 1)})
    merged = Cond.merge([one, two, three])
    assert merged.crossattn is not None and merged.vector is not None and merged.concat is not None
    assert merged.crossattn[0, :, 0].tolist() == [1, 1, 1, 2, 2]
    assert merged.crossattn_mask is None
    assert merged.vector[0].tolist() == [1, 2, 2]
    assert merged.concat.shape == (2, 1, 4, 4)
    assert merged.residuals["mid"].tolist() == [[2], [2]] and set(merged.residuals) == {"mid", "in.0"}
    assert set(merged.extras) == {"t5"}
    assert one.residuals["mid"].tolist() == [[1], [1]]  # summed into a new tensor
    assert equal(Cond.merge([]), Cond())


def test_merge_makes_a_mask_where_one_has_it() -> None:
    mask = torch.tensor([[True, False]])
    merged = Cond.merge([Cond(crossattn=torch.ones(1, 3, 4)), Cond(crossattn=torch.ones(1, 2, 4), crossattn_mask=mask)])
    assert merged.crossattn_mask is not None
    assert merged.crossattn_mask.tolist() == [[True, True, True, True, False]]


def test_merge_refuses_one_name_twice() -> None:
    extra = Cond(extras={"t5": torch.ones(1, 1)})
    with pytest.raises(ValueError, match="t5"):
        Cond.merge([extra, extra])
    assert Cond.merge([Cond(options={"a": 1}), Cond(options={"a": 1, "b": 2})]).options == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="'a'"):
        Cond.merge([Cond(options={"a": 1}), Cond(options={"a": 2})])


def test_batch_stacks_rows() -> None:
    batch = Cond.batch([full(2), full(1)])
    assert batch.rows() == 3
    for name, value in batch.flat().items():
        assert torch.equal(value[:2], full(2).flat()[name]) and torch.equal(value[2:], full(1).flat()[name])


def test_batch_pads_tokens_and_masks_the_padding() -> None:
    short, long = Cond(crossattn=torch.ones(1, 2, 3)), Cond(crossattn=2 * torch.ones(1, 4, 3))
    batch = Cond.batch([short, long])
    assert batch.crossattn is not None and batch.crossattn_mask is not None
    assert batch.crossattn.shape == (2, 4, 3)
    assert batch.crossattn_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert float(batch.crossattn[0, 2:].abs().max()) == 0
    assert Cond.batch([short, short]).crossattn_mask is None  # nothing to pad, nothing to mask


def test_batch_makes_the_mask_that_only_one_has() -> None:
    mask = torch.tensor([[True, False]])
    batch = Cond.batch([Cond(crossattn=torch.ones(1, 2, 3)), Cond(crossattn=torch.ones(1, 2, 3), crossattn_mask=mask)])
    assert batch.crossattn_mask is not None and batch.crossattn_mask.tolist() == [[True, True], [True, False]]


def test_batch_refuses_other_parts_and_options() -> None:
    with pytest.raises(ValueError, match="different parts"):
        Cond.batch([Cond(vector=torch.ones(1, 2)), Cond(concat=torch.ones(1, 2, 2, 2))])
    with pytest.raises(ValueError, match="options"):
        Cond.batch([Cond(options={"a": 1}), Cond(options={"a": 2})])


def test_gradients_pass_through() -> None:
    leaf = torch.ones(2, 3, requires_grad=True)
    cond = Cond.merge([Cond(vector=leaf)]).where(torch.tensor([True, False]), Cond(vector=torch.zeros(2, 3)))
    assert cond.vector is not None
    cond.vector.sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [[1, 1, 1], [0, 0, 0]]


def conditions() -> Conditions:
    conds = {"text": Cond(crossattn=torch.ones(1, 2, 3)), "pose": Cond(vector=torch.ones(1, 2))}
    nulls = {"text": Cond(crossattn=torch.zeros(1, 2, 3)), "pose": Cond(vector=torch.zeros(1, 2))}
    return Conditions(conds, nulls)


def value(part: Tensor | None) -> float:
    assert part is not None
    return float(part.mean())


def test_conditions_pick() -> None:
    run = conditions()
    assert run.names == ("text", "pose")
    for names, text, pose in ((["text", "pose"], 1, 1), (["text"], 1, 0), (["pose"], 0, 1), ([], 0, 0)):
        picked = run.pick(names)
        assert value(picked.crossattn) == text and value(picked.vector) == pose
    assert run.cond is run.pick(["pose", "text"]) and run.null is run.pick([])
    with pytest.raises(ValueError, match=r"\['txet'\].*text"):
        run.pick(["txet"])


def test_importing_it_needs_no_torch() -> None:
    code = "import sys, ldm_core.contracts; ldm_core.contracts.Cond(); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode
        == 0
    )
