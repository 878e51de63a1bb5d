"""The figures of the tasks on closed forms: a perfect model has 1, a shuffled one chance; known errors are found."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import measure_boxes
import numpy as np
import pytest
import torch
import train_judge
from judges import Judge, JudgedMaps
from ldm_plugin_metrics.conditional.boxes import Detections
from measure_inpainting import by_opencv, mean_colour, spread, unchanged
from measure_maps import figures as map_figures
from measure_panorama import borders, seam
from nearest_pictures import asked_share, group_share, nearest, pixels
from pair_figures import energy, patches, psnr, ssim
from task_sets import data, frechet
from train_regression import Regression, enlarged, small

from ldm_core.builtin.unet.config import UNetConfig

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "made_at_7a414d8"
TINY = {"widths": [4, 4], "size": [[16, 16]]}


def test_boxes_found_in_their_places_have_one_and_shuffled_classes_have_chance() -> None:
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(400):
        boxes = np.array([[0.1, 0.1, 0.2, 0.2], [0.6, 0.5, 0.3, 0.4]])
        classes = random.integers(0, 4, 2)
        pictures.append((Detections(boxes, classes, np.array([0.9, 0.8])), boxes, classes))
    perfect = {"found": 1.0, "overlap": 1.0, "class_right": 1.0, "boxes": 800.0}
    assert measure_boxes.layout(pictures, 0.5) == pytest.approx(perfect)
    shuffled = [(f._replace(classes=random.integers(0, 4, 2)), b, c) for f, b, c in pictures]
    made = measure_boxes.layout(shuffled, 0.5)
    assert (
        abs(made["overlap"] - 1) < 1e-9
        and abs(made["class_right"] - 0.25) < 0.06
        and made["found"] == made["class_right"]
    )
    assert measure_boxes.layout(pictures, 0.95) == {"found": 0.0, "overlap": 0.0, "class_right": 0.0, "boxes": 800.0}


@pytest.mark.parametrize(("moved", "found"), [(0.25, 1.0), (0.4, 0.0)])
def test_boxes_moved_along_by_a_share_of_their_width_overlap_as_they_must(moved: float, found: float) -> None:
    boxes = np.array([[0.2, 0.2, 0.4, 0.4]])
    seen = Detections(boxes + np.array([moved * 0.4, 0, 0, 0]), np.array([1]), np.array([1.0]))
    made = measure_boxes.layout([(seen, boxes, np.array([1]))], 0.5)
    assert made["overlap"] == pytest.approx((1 - moved) / (1 + moved))
    assert made["found"] == found


def test_a_detector_whose_maps_are_the_targets_finds_the_boxes_and_classes() -> None:
    judge = Judge({"kind": "detector", "classes": 3, **TINY})
    boxes = np.array([[0.1, 0.2, 0.3, 0.25], [0.55, 0.5, 0.3, 0.4], [0.5, 0.05, 0.1, 0.1]])
    known = [{"boxes": boxes, "box_labels": np.array([2, 0, 1])}, {"boxes": boxes[:0], "box_labels": np.array([], int)}]
    heat, geometry, _ = train_judge.targets(known, 3, 24, 32)
    exact = torch.cat((torch.logit(heat.clamp(1e-4, 1 - 1e-4)), geometry), 1)
    judge.network.forward = lambda images: exact  # type: ignore[method-assign]
    found, nothing = judge.found(torch.zeros(2, 3, 48, 64, dtype=torch.uint8), 0.5)
    order = np.argsort(found.boxes[:, 0])
    np.testing.assert_allclose(found.boxes[order], boxes[[0, 2, 1]], atol=1e-5)
    assert found.classes[order].tolist() == [2, 1, 0] and not len(nothing.scores)


def test_an_exact_segmenter_has_one_and_one_of_background_alone_its_share() -> None:
    pictures = data("shapes", (32, 32), ["split=val", "val_scenes=6"])
    maps = np.stack([pictures.example(i, ["segmentation"])["segmentation"] for i in range(6)]).astype(np.int64)

    class Given:
        classes = 33

        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def maps(self, images: Any) -> Any:
            return self.answer

    exact: Any = Given(maps)
    assert map_figures(exact, pictures, "") == {"label_map_iou": 1.0, "label_map_accuracy": 1.0}
    empty: Any = Given(np.zeros_like(maps))
    share = float((maps == 0).mean())
    kinds = len(np.unique(maps))
    made = map_figures(empty, pictures, "")
    assert made["label_map_accuracy"] == pytest.approx(share)
    assert made["label_map_iou"] == pytest.approx(
        share / kinds
    )  # background over everything, and 0 of each other class


def test_judges_learn_and_are_read_again_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("segmenter", "detector"):
        out = tmp_path / f"{kind}.safetensors"
        scenes = ["--training", "scenes=48", "--held-out", "split=val", "val_scenes=8", "pairs=seen"]
        sizes = ["--size", "16", "--widths", "8", "8", "--steps", "60", "--batch", "8", "--mirror"]
        monkeypatch.setattr(
            sys, "argv", ["train_judge.py", kind, "--data", "shapes", *scenes, *sizes, "--out", str(out)]
        )
        train_judge.main()
        told = json.loads(out.with_suffix(".json").read_text())
        judge = Judge.load(str(out))
        assert told["figures"][f"{kind}, real pictures"] == judge.facts["figures"]
        again = tmp_path / "again.safetensors"
        judge.save(str(again))
        assert all(
            torch.equal(a, b)
            for a, b in zip(judge.state_dict().values(), Judge.load(str(again)).state_dict().values(), strict=True)
        )
        if kind == "segmenter":
            assert judge.facts["figures"]["label_map_accuracy"] > 0.3  # a chance of 0.03
    with pytest.raises(SystemExit, match="no judge"):
        Judge.load(str(FIXTURES / "layout" / "model.safetensors"))


def test_a_classifier_learns_and_the_metrics_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_plugin_metrics.conditional.class_accuracy import ClassAccuracy
    from ldm_plugin_metrics.conditional.config import ClassAccuracyConfig
    from task_sets import judged

    from ldm_core.contracts import Site

    out = str(tmp_path / "classes.safetensors")
    scenes = ["--training", "scenes=64", "--held-out", "split=val", "val_scenes=16", "pairs=seen"]
    monkeypatch.setattr(sys, "argv", [
        "train_judge.py", "classifier", "--data", "shapes", *scenes, "--size", "32", "--steps", "4", "--batch", "8",
        "--out", out,
    ])  # fmt: skip
    train_judge.main()
    told = json.loads(Path(out).with_suffix(".json").read_text())
    seen = data("shapes", (32, 32), ["split=val", "val_scenes=16", "pairs=seen"])
    metric = ClassAccuracy(ClassAccuracyConfig(network="test_byobnet", weights=out, size=32), Site(size=(32, 32)))
    share = float(judged(metric, seen)["class_accuracy"].mean())
    assert share == told["figures"]["classifier, real pictures"]["accuracy"]


def test_copies_are_nearest_to_themselves_and_shuffled_ones_to_others() -> None:
    random = np.random.default_rng(0)
    known = random.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    rows, groups = pixels(known), random.integers(0, 4, 40)
    places = np.arange(40)
    order = nearest(rows, rows)
    assert asked_share(order, places) == {"asked": 1.0, "asked among 5": 1.0}
    assert group_share(order, groups, groups)["group"] == 1.0
    moved = nearest(np.roll(rows, 1, 0), rows)
    assert asked_share(moved, places)["asked"] == 0.0
    expected = float((np.roll(groups, 1) == groups).mean())
    made = group_share(moved, groups, groups)
    assert made["group"] == expected
    assert made["largest group"] == np.bincount(groups).max() / 40


def test_pairs_with_known_errors() -> None:
    random = np.random.default_rng(0)
    real = random.integers(20, 200, (3, 3, 24, 24), dtype=np.uint8)
    assert psnr(real + np.uint8(5), real) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(real, real) == 100.0 and ssim(real, real) == pytest.approx(1.0)
    assert ssim(255 - real, real) < 0
    ramp = np.tile(np.arange(24, dtype=np.uint8) * 3, (2, 3, 24, 1))
    assert energy(ramp) == pytest.approx(9.0) and energy(ramp.transpose(0, 1, 3, 2)) == pytest.approx(9.0)
    cut = patches(real, 8)
    assert cut.shape == (27, 3, 8, 8)
    np.testing.assert_array_equal(cut[4], real[0, :, 8:16, 8:16])
    rows = random.standard_normal((500, 4))
    assert frechet(rows, rows + 3) == pytest.approx(36.0)


def test_fills_by_hand() -> None:
    random = np.random.default_rng(0)
    picture = np.full((3, 16, 16), 90, np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[4:9, 5:12] = True
    spoilt = np.where(mask[None], np.uint8(0), picture)
    np.testing.assert_array_equal(mean_colour(spoilt, mask), picture)
    assert mean_colour(picture, np.ones((16, 16), bool)).tolist() == np.full((3, 16, 16), 127).tolist()
    pytest.importorskip("cv2")
    for way in ("INPAINT_TELEA", "INPAINT_NS"):
        made = by_opencv(spoilt, mask, way)
        assert np.abs(made.astype(int) - 90)[:, mask].max() <= 2
        assert unchanged(made[None], picture[None], mask[None]) == 1.0
    other = picture.copy()
    other[0, 0, 0] += 1
    assert unchanged(np.stack([picture, other]), np.stack([picture, picture]), np.stack([mask, mask])) == 0.5
    fills = np.stack([spoilt + 10 * i for i in (0, 2)]).astype(np.uint8)
    assert spread(fills, mask) == 10.0 and spread(np.stack([picture, picture]), mask) == 0.0
    assert spread(random.integers(0, 256, (64, 3, 16, 16), dtype=np.uint8), mask) == pytest.approx(
        255 / math.sqrt(12), rel=0.05
    )


def test_an_untrained_regression_is_the_bicubic_enlargement(tmp_path: Path) -> None:
    config = UNetConfig(channels=8, channel_mult=(1, 2), res_blocks=1, attention=(), heads=1, norm_groups=4)
    network = Regression(config, 4).eval()
    picture = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    large = enlarged(small(picture, 4), 4)[None]
    np.testing.assert_array_equal(network.pictures(large), large)
    network.network.state_dict()["out.2.weight"].normal_(std=0.3)
    import attrs

    path = str(tmp_path / "r.safetensors")
    network.save(path, {"config": attrs.asdict(config), "factor": 4})
    again = Regression.load(path)
    np.testing.assert_array_equal(again.pictures(large), network.pictures(large))
    assert not np.array_equal(again.pictures(large), large)


def test_a_run_with_boxes_is_sampled_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, out = tmp_path / "judge.safetensors", tmp_path / "layout.json"
    Judge({"kind": "detector", "classes": 32, "confidence": 0.01, **TINY}).save(str(judge))
    monkeypatch.setattr(sys, "argv", [
        "measure_boxes.py", str(FIXTURES / "layout"), "--judge", str(judge), "--count", "3", "--out", str(out),
        "--set", "sample.steps=2", "--pictures", "split=val", "val_scenes=6",
    ])  # fmt: skip
    measure_boxes.main()
    told = json.loads(out.read_text())
    assert told["samples"]["pictures"] == 3 and told["samples"]["steps"] == 2
    assert set(told["figures"]) == {"real, 6 held-out pictures", "3 samples", "samples over real"}
    assert len(list((tmp_path / "layout_samples").rglob("*.png"))) == 3


def test_a_segmenter_answers_with_a_class_a_pixel() -> None:
    judge = Judge({"kind": "segmenter", "classes": 5, **TINY}).eval()
    made = JudgedMaps(judge).judge.maps(torch.zeros(2, 3, 16, 24, dtype=torch.uint8))
    assert made.shape == (2, 16, 24) and 0 <= made.min() <= made.max() < 5


def test_a_seam_is_found_where_windows_meet_and_only_there() -> None:
    assert borders(64, 32, 16).tolist() == [16, 32, 48] and borders(32, 32, 16).tolist() == []
    ramp = np.broadcast_to((np.arange(64)[:, None] + np.arange(64)), (1, 3, 64, 64)).astype(np.uint8)
    assert seam(ramp, 32, 16) == pytest.approx(1)
    for place in (32, 40):
        jump = ramp.astype(np.int64).copy()
        jump[..., place:] += 4
        found = seam(jump.clip(0, 255).astype(np.uint8), 32, 16)
        elsewhere = (120 + (0 if place == 32 else 4)) / 120
        across = (6 + (4 if place == 32 else 0)) / 6
        assert found == pytest.approx(across / elsewhere)
