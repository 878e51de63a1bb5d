"""Files of statistics: those of other programs and our own, there and back, and those of another network."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from evaluation_runs import evaluated, pictures, refused
from evaluation_runs import own_caches as _own_caches  # noqa: F401
from ldm_plugin_metrics.distances.frechet import frechet, moments
from ldm_plugin_metrics.evaluation.statistics import read_statistics, write_statistics

from ldm_core.errors import ConfigError, DataError
from ldm_core.nn.torchvision_operators import importable

NETWORK = ["network=resnet10t", "random_seed=0", "size=32", "allow_few=true"]


def _sums(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"count": np.array(len(rows)), "sum": rows.sum(0), "outer": rows.T @ rows}


def _fd(name: str = "fd", *more: str) -> list[str]:
    return [f"{name}.{setting}" for setting in (*NETWORK, *more)]


def test_a_file_holds_mean_and_covariance_and_comes_back(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(3, 2, (50, 7))
    url = str(tmp_path / "statistics.npz")
    write_statistics(url, _sums(rows), "a network")
    with np.load(url) as found:  # as pytorch-fid, clean-fid and ADM's evaluator read it
        assert np.allclose(found["mu"], rows.mean(0), rtol=1e-12)
        assert np.allclose(found["sigma"], np.cov(rows, rowvar=False), rtol=1e-10)
    back = read_statistics(url)
    assert (back.count, back.source) == (50, "a network")
    for name, value in _sums(rows).items():
        assert np.allclose(back.statistics().sums[name], value, rtol=1e-10)


def test_pytorch_fid_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_fid", reason="pytorch-fid is not installed")
    with importable():
        fid = importlib.import_module("pytorch_fid.fid_score")
    draw = np.random.default_rng(0)
    rows, other = draw.normal(3, 2, (50, 7)), draw.normal(2, 1, (60, 7))
    urls = [str(tmp_path / name) for name in ("ours.npz", "other.npz")]
    for url, each in zip(urls, (rows, other), strict=True):
        write_statistics(url, _sums(each), "a network")
    theirs = [fid.compute_statistics_of_path(url, None, 50, 7, "cpu") for url in urls]
    assert np.allclose(theirs[0][0], rows.mean(0), rtol=1e-12)
    assert np.allclose(theirs[0][1], np.cov(rows, rowvar=False), rtol=1e-10)
    for url, (mu, sigma) in zip(urls, theirs, strict=True):
        np.savez_compressed(url, mu=mu, sigma=sigma)  # as its save_fid_stats does
    back = [read_statistics(url) for url in urls]
    assert [(each.count, each.source) for each in back] == [(0, "")] * 2
    ours = frechet(*moments(back[0].statistics().sums), *moments(back[1].statistics().sums))
    expected = fid.calculate_frechet_distance(*theirs[0], *theirs[1])
    assert ours == pytest.approx(expected, rel=1e-6)


def test_statistics_stand_for_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other, url = pictures(tmp_path / "a", 40), pictures(tmp_path / "b", 50, seed=1), tmp_path / "b.npz"
    end = ["--out", tmp_path / "out"]
    by_pictures = evaluated(capsys, own, "--against", other, "--metrics", "fd", *_fd(), *end)
    made = evaluated(capsys, other, "--metrics", "fd", "--save-statistics", url, *_fd(), *end)
    assert made["metrics"] == []
    by_file = evaluated(capsys, own, "--against", url, "--metrics", "fd", "--bootstrap", 3, *_fd(), *end)
    one, two = (found["metrics"][0]["values"]["fd"] for found in (by_pictures, by_file))
    assert two["value"] == pytest.approx(one["value"], rel=1e-6)
    assert "floor" in one and "floor" not in two and "interval" in two
    assert by_file["metrics"][0]["against_pictures"] == 50
    assert by_file["sets"]["reference"]["source"].startswith("timm resnet10t")


def test_statistics_of_another_network_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, url = pictures(tmp_path / "a", 4), tmp_path / "s.npz"
    evaluated(capsys, own, "--metrics", "fd", "--save-statistics", url, *_fd(), "--out", tmp_path / "out")
    arguments = [own, "--against", url, "--out", tmp_path / "out"]
    said = refused(capsys, *arguments, "--metrics", "fd", *_fd("fd", "random_seed=1"))
    assert "statistics of 'timm resnet10t, random weights 0" in said and "random weights 1" in said
    np.savez(url, mu=np.zeros(7), sigma=np.eye(7))
    said = refused(capsys, *arguments, "--metrics", "fd", *_fd())
    assert "does not say which network" in said and "statistics of 7 numbers a picture, and fd has 512" in said
    np.savez(url, mu=np.zeros(512), sigma=np.eye(512))
    assert evaluated(capsys, *arguments, "--metrics", "fd", *_fd())["metrics"][0]["against_pictures"] is None
    kid = [*_fd("kid")[:3], "kid.subset_size=2"]
    said = refused(capsys, *arguments, "--metrics", "kid", *kid)
    assert "kid: compares rows" in said and "give pictures" in said
    said = refused(capsys, own, "--metrics", "fd,brightness", *_fd(), "--save-statistics", url, *arguments[-2:])
    assert "a file is of one network" in said


def test_a_file_that_lies_is_refused(tmp_path: Path) -> None:
    url = tmp_path / "s.npz"
    url.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="cut short"):
        read_statistics(str(url))
    np.savez(url, mu=np.zeros(3))
    with pytest.raises(DataError, match="has no 'sigma'"):
        read_statistics(str(url))
    np.savez(url, mu=np.zeros(3), sigma=np.full((3, 3), np.nan))
    with pytest.raises(DataError, match="not finite"):
        read_statistics(str(url))
    np.savez(url, mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(DataError, match="expected"):
        read_statistics(str(url))
    np.savez(url, mu=np.array([{}], object), sigma=np.eye(1))  # a pickle
    with pytest.raises(DataError):
        read_statistics(str(url))
    with zipfile.ZipFile(url, "w") as archive:
        archive.writestr("mu.npy", b"\x93NUMPY cut")
    with pytest.raises(DataError):
        read_statistics(str(url))
    with pytest.raises(ConfigError, match="needs 2 pictures"):
        write_statistics(str(url), _sums(np.zeros((1, 3))), "x")
