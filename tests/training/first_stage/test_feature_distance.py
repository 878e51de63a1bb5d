"""The Fréchet distance against SciPy's matrix square root and closed forms, and the features that it is taken on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from ldm_core.training.first_stage.frechet import RandomFeatures, frechet_distance


def samples(count: int, width: int, seed: int) -> torch.Tensor:
    """Correlated, of another mean for each seed."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=g, dtype=torch.float64)
    return torch.randn(count, width, generator=g, dtype=torch.float64) @ mix + torch.randn(width, generator=g)


@pytest.mark.parametrize(("n", "m", "width"), [(300, 200, 12), (64, 64, 40), (9, 300, 20)])
def test_it_is_that_of_scipys_matrix_square_root(n: int, m: int, width: int) -> None:
    """The last pair has a singular covariance: fewer samples than features."""
    a, b = samples(n, width, 0).numpy(), samples(m, width, 1).numpy()
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(linalg.sqrtm(ca @ cb))
    by_scipy = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    found = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(by_scipy, rel=1e-6)


def test_closed_forms() -> None:
    x = samples(100, 6, 2)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, x + 2.0) == pytest.approx(6 * 4.0, rel=1e-9)  # a shift alone
    y = x - x.mean(0)
    spread = float(y.var(0).sum())
    assert frechet_distance(y, 3 * y) == pytest.approx((3 - 1) ** 2 * spread, rel=1e-9)  # (s_a - s_b)^2 each
    assert frechet_distance(x.float(), x.flip(0).float()) == pytest.approx(0.0, abs=1e-9)


def test_wrong_shapes_are_refused() -> None:
    for a, b in (((1, 4), (9, 4)), ((9, 4), (9, 5)), ((9,), (9,))):
        with pytest.raises(ValueError, match="N, M of at least 2"):
            frechet_distance(torch.zeros(a), torch.zeros(b))


def test_random_features_are_the_same_everywhere() -> None:
    state = torch.random.get_rng_state()
    network, x = RandomFeatures(), torch.linspace(-1, 1, 2 * 3 * 24 * 20).view(2, 3, 24, 20)
    assert torch.equal(torch.random.get_rng_state(), state)
    out = network(x)
    assert out.shape == (2, 192) and out.dtype == torch.float32
    assert torch.equal(out, RandomFeatures()(x))
    torch.testing.assert_close(network(x[1:]), out[1:])
    golden = [0.026636878, 0.20874412, 0.20908384]
    assert out[0, [0, 40, 120]].tolist() == pytest.approx(golden, rel=1e-4)
    assert network(x[:, :1]).shape == (2, 192)
    assert network(torch.zeros(1, 3, 2, 2)).shape == (1, 192)


def test_a_worse_picture_is_farther() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(64, 3, 4, 4, generator=g) * 2 - 1, size=(32, 32), mode="bilinear")
    noise = torch.randn(x.shape, generator=g)
    features = RandomFeatures()
    distances = [frechet_distance(features(x), features(x + s * noise)) for s in (0.0, 0.05, 0.2, 0.5)]
    assert distances == sorted(distances) and distances[0] < 1e-9 < distances[1]
