"""The codebook: nearest codes by brute force, the gradients of both losses, start, use and revival."""

from __future__ import annotations

import math

import ldm_plugin_vq_ae.codebook as module
import pytest
import torch
from ldm_plugin_vq_ae.codebook import Codebook, perplexity


def codebook(size: int = 50, dim: int = 3, **settings: object) -> Codebook:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        book = Codebook(size, dim, **settings)  # type: ignore[arg-type]
        torch.nn.init.normal_(book.embedding.weight)
    return book


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_codes_far_from_zero_are_told_apart() -> None:
    """A cloud of spread 0.01 around 3: |c|^2 - 2 p.c by itself would have lost the digits that matter."""
    book = codebook(200)
    with torch.no_grad():
        book.embedding.weight.mul_(0.01).add_(3.0)
    z = 0.01 * latents(8, 3, 16, 16) + 3.0
    points = z.permute(0, 2, 3, 1).reshape(-1, 3).double()
    codes = book.embedding.weight.detach().double()
    distances = torch.cdist(points, codes)
    chosen = distances.gather(1, book.indices(z).view(-1, 1)).squeeze(1)
    assert float((chosen - distances.min(dim=1).values).max()) < 1e-7  # a twentieth of the rounding of 3 itself
    flat = points.float()
    plain = torch.addmm(codes.float().square().sum(1), flat, codes.float().T, alpha=-2.0).argmin(1)
    assert float((distances.gather(1, plain[:, None]).squeeze(1) - distances.min(dim=1).values).max()) > 1e-4


def test_starts_uniform_within_one_over_its_size() -> None:
    weight = Codebook(20, 400).embedding.weight
    assert weight.abs().max() <= 1 / 20
    assert weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("held", [1, 70, 2**18])
def test_nearest_codes_are_those_of_brute_force(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._DISTANCES, "cpu", held)
    book, z = codebook(), latents(2, 3, 4, 5)
    points = z.permute(0, 2, 3, 1).reshape(-1, 3).double()
    by_hand = torch.cdist(points, book.embedding.weight.double()).argmin(dim=1).view(2, 4, 5)
    assert torch.equal(book.indices(z), by_hand)
    for b, i, j in ((0, 0, 0), (1, 3, 4)):
        assert torch.equal(book.codes(by_hand)[b, :, i, j], book.embedding.weight[by_hand[b, i, j]])


def test_distances_are_float32_under_autocast() -> None:
    """In bfloat16 these two codes round to one, and the nearest would be a coin toss."""
    book = codebook(size=2, dim=1)
    with torch.no_grad():
        book.embedding.weight.copy_(torch.tensor([[1.0], [1.001]]))
    z = torch.tensor([1.0009, 1.0001, 1.002]).view(1, 1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        codes, loss, indices = book(z)
    assert indices.flatten().tolist() == [1, 0, 1]
    assert codes.dtype == loss.dtype == torch.float32


@pytest.mark.parametrize(("legacy", "on_latents", "on_codes"), [(True, 1.0, 0.25), (False, 0.25, 1.0)])
def test_gradients_of_both_forms_of_the_loss(legacy: bool, on_latents: float, on_codes: float) -> None:
    """The value is (1 + beta) · MSE in both; what differs is which side carries beta (0.25)."""
    book = codebook(legacy_beta=legacy)
    z = latents(2, 3, 4, 4).requires_grad_()
    codes, loss, indices = book(z)
    difference = (codes - z).detach()
    assert loss.item() == pytest.approx(1.25 * difference.square().mean().item(), rel=1e-5)
    loss.backward()
    assert z.grad is not None and book.embedding.weight.grad is not None
    torch.testing.assert_close(z.grad, on_latents * -2 * difference / z.numel())
    expected = torch.zeros_like(book.embedding.weight)
    flat = (on_codes * 2 * difference / z.numel()).movedim(1, -1).reshape(-1, 3)
    expected.index_add_(0, indices.flatten(), flat)
    torch.testing.assert_close(book.embedding.weight.grad, expected)


def test_gradient_passes_straight_through() -> None:
    book = codebook()
    z = latents(1, 3, 2, 2).requires_grad_()
    codes, _, indices = book(z)
    torch.testing.assert_close(codes.detach(), book.codes(indices).detach())
    weight = latents(1, 3, 2, 2) + 1
    (gradient,) = torch.autograd.grad((codes * weight).sum(), z)
    torch.testing.assert_close(gradient, weight)


def test_usage_and_perplexity() -> None:
    book = codebook(size=6)
    indices = torch.tensor([[[0, 0], [5, 3]]])
    assert book.usage(indices).tolist() == [2, 0, 0, 1, 0, 1]
    assert perplexity(torch.tensor([5, 5, 5, 5, 0])).item() == pytest.approx(4.0)
    assert perplexity(torch.tensor([7, 0, 0])).item() == pytest.approx(1.0)


def test_starting_from_data_finds_its_clusters() -> None:
    generator = torch.Generator().manual_seed(3)
    centres = 10 * torch.randn(8, 3, generator=generator)
    points = centres[torch.randint(8, (4000,), generator=generator)]
    points = points + 0.1 * torch.randn(4000, 3, generator=generator)
    book = codebook(size=24)
    book.init_from(points, seed=0)
    distances = torch.cdist(points, book.embedding.weight).min(dim=1).values
    assert distances.max() < 1.0  # random codes leave points 5 and more away
    assert (book.usage(book.indices(points.T[None])) > 0).float().mean() == 1.0


def test_starting_from_data_is_repeatable_and_lowers_the_error() -> None:
    z = latents(4, 3, 16, 16)
    errors = []
    for iterations in (0, 10):
        first, second = codebook(), codebook()
        for book in (first, second):
            book.init_from(z, seed=7, iterations=iterations)
        assert torch.equal(first.embedding.weight, second.embedding.weight)
        errors.append((first.codes(first.indices(z)) - z).square().mean().item())
    assert errors[1] < 0.85 * errors[0]


def test_fewer_latents_than_codes_give_codes_that_differ() -> None:
    book, z = codebook(size=40), latents(1, 3, 3, 5)
    book.init_from(z, seed=0)
    assert len(book.embedding.weight.unique(dim=0)) == 40
    assert (book.codes(book.indices(z)) - z).abs().max() < 0.1


def test_dead_codes_are_revived_and_no_others_move() -> None:
    book, z = codebook(size=10), latents(2, 3, 8, 8)
    with torch.no_grad():
        book.embedding.weight[4:] += 100.0
    before = book.embedding.weight.detach().clone()
    dead = book.usage(book.indices(z)) == 0
    assert int(dead.sum()) >= 6
    assert book.revive(z, dead, seed=0) == int(dead.sum())
    assert torch.equal(book.embedding.weight[~dead], before[~dead])
    assert (book.usage(book.indices(z))[dead] > 0).float().mean() > 0.8
    assert book.revive(z, torch.zeros(10, dtype=torch.bool), seed=0) == 0


def test_latents_that_cannot_start_a_codebook_are_refused() -> None:
    with pytest.raises(ValueError, match="finite latents"):
        codebook().init_from(torch.full((1, 3, 2, 2), math.nan), seed=0)
    with pytest.raises(ValueError, match=r"finite latents.*\(0, 3\)"):
        codebook().init_from(torch.zeros(0, 3), seed=0)


def test_the_largest_codebook_at_256_pixels_needs_no_table_of_all_distances() -> None:
    """16,384 codes and 64·64 latents: a full table would hold 67 M numbers; one block holds at most 2**18."""
    book = Codebook(16384, 3)
    z = torch.zeros(1, 3, 64, 64)
    sizes: list[int] = []
    original = torch.addmm

    def counting(*args: object, **kwargs: object) -> torch.Tensor:
        out = original(*args, **kwargs)  # type: ignore[call-overload]
        sizes.append(out.numel())
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "addmm", counting)
        book.indices(z)
    assert max(sizes) <= 2**18 and sum(sizes) == 16384 * 64 * 64
