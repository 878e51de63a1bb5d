"""The examples, cut short: each README's commands and its script run in a copy of the folder, on shapes."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image

from ldm_core.builtin.shapes.dataset import CLASS_NAMES
from ldm_core.cli import main

ROOT = Path(__file__).parents[2]
WEIGHTS = "stage_objective.perceptual.weights="
SHAPES = {"use": "shapes", "scenes": 12, "val_scenes": 4}
CUT = [
    *("dataset.scenes=12", "dataset.val_scenes=4", "denoiser.channels=8", "denoiser.heads=2", "denoiser.norm_groups=4"),
    *("trainer.steps=2", "trainer.images_per_step=2", "trainer.validate_images=2", "trainer.warmup_steps=1"),
    *("sample.steps=3", "sample.images=2", "observers=[]"),
]
STAGE_CUT = [
    *("first_stage.channels=8", "first_stage.norm_groups=4", "first_stage_trainer.steps=2"),
    *("first_stage_trainer.images_per_step=2", "first_stage_trainer.warmup_steps=1"),
    *("first_stage_trainer.statistics_images=4", "first_stage_trainer.validate_images=2"),
]
BY_CLASS = {"WBC": CLASS_NAMES[0], "RBC": CLASS_NAMES[1], "Platelets": CLASS_NAMES[2], "dress": CLASS_NAMES[0]}
STAGE = "runs/first_stage_clothing"
SHARING = ("class_clothing", "inpainting_clothing", "unconditional_clothing")
EXACT = ("super_resolution_clothing",)
"""Their first stage is not trained."""
TRAINED = ("class_fashion", "composed_conditions", "emoji_text", "layout_cells", "semantic_cells", *EXACT, *SHARING)
SAMPLED = {"beyond_the_size": "emoji_text", "image_guiding": "unconditional_clothing", "image_to_image": "emoji_text"}
FOLDERS = sorted(path.parent.name for path in ROOT.glob("examples/*/recipe.yaml"))


def lines_of(name: str) -> list[str]:
    """The commands of an example's README, in their order."""
    text = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.startswith("    ldm-run ")]


def recipe_of(name: str) -> dict[str, Any]:
    """The recipe of an example, as it is written."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / name / "recipe.yaml").read_text(encoding="utf-8"))
    return found


def cut(name: str) -> list[str]:
    """The settings by which an example's training becomes one of two steps."""
    recipe = recipe_of(name)
    settings = [] if name in (*SHARING, *EXACT) else [*STAGE_CUT]
    if any(part["use"] == "text" for part in recipe.get("conditioners", [])):
        settings.append("conditioners.text.vocab_size=256")
    objective = recipe.get("stage_objective", {})
    if "codebook_start" in objective:
        settings.append("stage_objective.codebook_init_images=4")
    if "network" in objective.get("perceptual", {}):
        settings.append("stage_objective.perceptual={use: none}")
    return [*settings, *CUT]


def words_of(line: str) -> list[str]:
    """The words of a command behind `ldm-run`; a first stage of two steps serves as well as another."""
    return [STAGE if word == f"{STAGE}_f8" else word for word in shlex.split(line)[1:]]


def trained_by(line: str, name: str) -> list[str]:
    """A README's command that trains, on shapes and cut short."""
    words = [word for word in words_of(line) if not word.startswith(WEIGHTS)]
    if "--data" in words:
        words[words.index("--data") + 1] = "shapes"
    return [*words, *cut(name), "--quiet"]


class Clone:
    """A folder with the examples, where commands run as in the repository's root; runs are made when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "examples", folder / "examples")
        boxes = folder / "examples" / "layout_cells" / "boxes.json"
        layout = json.loads(boxes.read_text())
        boxes.write_text(json.dumps({**layout, "labels": [BY_CLASS[name] for name in layout["labels"]]}))

    def run(self, name: str) -> Path:
        """The run of an example, by the first command of its README."""
        folder = self.folder / "runs" / name
        if not folder.exists():
            if name in SHARING:
                self.run("first_stage_clothing")
            line = lines_of(name)[0]
            assert shlex.split(line)[-1 if line.endswith(name) else shlex.split(line).index("--out") + 1].endswith(name)
            assert main(trained_by(line, name)) == 0
        return folder

    def sampled(self, line: str, out: str) -> list[np.ndarray]:
        """The pictures (h, w, 3) of a README's command that samples."""
        words = [BY_CLASS.get(word, word) for word in shlex.split(line)[1:]]
        assert main([*words, "--out", out, "--quiet"]) == 0
        return pictures(self.folder / out)

    def script(self, name: str) -> Callable[..., None]:
        """The function `main` of an example's script."""
        spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "examples" / name / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found: Callable[..., None] = module.main
        return found


def pictures(folder: Path) -> list[np.ndarray]:
    """The samples of a folder by name, without grids."""
    files = sorted(file for file in folder.glob("*.png") if not file.name.startswith("grid"))
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("clone")
        patch.chdir(folder)
        yield Clone(folder)


def same(found: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(found) == len(other) > 0 and all(map(np.array_equal, found, other))


def by_script(clone: Clone, name: str) -> list[np.ndarray]:
    """The pictures of the example's script, trained in a folder of its own to the weights of the command's bits."""
    out = f"scripts/{name}"
    before = [STAGE] if name in SHARING else []
    clone.script(name)(SHAPES, *before, out, *cut(name))
    for file in ("model.safetensors", "first_stage.safetensors"):
        assert (clone.folder / out / file).read_bytes() == (clone.run(name) / file).read_bytes()
    return pictures(clone.folder / out / "pictures")


def test_the_first_stage_that_clothing_shares(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    run = clone.run("first_stage_clothing")
    assert main([*shlex.split(lines_of("first_stage_clothing")[1])[1:], "--json"]) == 0
    (made,) = pictures(run / "photo")
    assert made.shape == (192, 144, 3)
    capsys.readouterr()
    clone.script("first_stage_clothing")(SHAPES, "scripts/stage", *cut("first_stage_clothing"))
    assert re.match(r"PSNR [\d.]+ dB, SSIM [-\d.]+ on 2 pictures", capsys.readouterr().out)
    weights = [clone.folder / f"{where}/first_stage.safetensors" for where in ("scripts/stage", run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("class_clothing", 8),
        ("class_fashion", len(CLASS_NAMES)),
        ("emoji_text", 8),
        ("layout_cells", 4),
        ("semantic_cells", 4),
        ("unconditional_clothing", 16),
    ],
)
def test_an_example_by_its_commands_and_by_its_script(clone: Clone, name: str, count: int) -> None:
    size = recipe_of(name)["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    clone.run(name)
    found = clone.sampled(lines_of(name)[1].replace("--images 40", f"--images {count}"), f"samples/{name}")
    assert {one.shape for one in found} == {(height, width, 3)} and len({one.tobytes() for one in found}) == len(found)
    assert len(found) == count and same(found, by_script(clone, name))
    assert name != "layout_cells" or Path(f"samples/{name}/grid-boxes.png").is_file()


def test_a_longer_training_begins_with_the_weights_of_a_run(clone: Clone) -> None:
    clone.run("emoji_text")
    longer, sheet = lines_of("emoji_text")[2:4]
    words = shlex.split(longer)[1:]
    words[words.index("--data") + 1] = "shapes"
    assert main([*words, *CUT, "conditioners.text.vocab_size=256", "--quiet"]) == 0
    assert len(clone.sampled(sheet.replace("--images 24", "--images 3"), "samples/longer")) == 3


def test_captions_as_bags_of_words(clone: Clone) -> None:
    """The README's other model; shapes have captions and no keywords."""
    clone.run("emoji_text")
    words, longer, sample = lines_of("emoji_text")[4:]
    for line in (words, longer):
        settings = [*CUT, "conditioners.text.vocab_size=256", "--quiet"]
        line = line.replace("../shared/data/emoji_noto", "shapes")
        assert main([*shlex.split(line)[1:], *settings]) == 0
    assert len(clone.sampled(sample.replace("--images 12", "--images 3"), "samples/words")) == 3


def test_a_label_map_at_a_larger_size_than_trained(clone: Clone) -> None:
    clone.run("semantic_cells")
    assert {one.shape for one in clone.sampled(lines_of("semantic_cells")[2], "samples/large")} == {(128, 128, 3)}


def test_boxes_of_scenes(clone: Clone) -> None:
    """The README's other model, of the embedded scenes."""
    stage, train, sample = ([*shlex.split(line)[1:], "--quiet"] for line in lines_of("layout_cells")[2:])
    assert "runs/scenes_stage" in stage
    assert main([*stage, *STAGE_CUT, *CUT, "stage_objective.codebook_init_images=4"]) == 0
    assert main([*train, *CUT]) == 0
    found = clone.sampled("ldm-run " + shlex.join(sample[:-1]), "samples/scene-boxes")
    assert {one.shape for one in found} == {(32, 32, 3)} and len(found) == 4


def test_label_maps_of_scenes(clone: Clone) -> None:
    """The README's other model, of the embedded scenes, at the size of training and beyond it."""
    stage, train, sample, large = ([*shlex.split(line)[1:], "--quiet"] for line in lines_of("semantic_cells")[3:])
    assert main([*stage, *STAGE_CUT, *CUT, "stage_objective.codebook_init_images=4"]) == 0
    assert main([*train, *CUT]) == 0
    for line, size in ((sample, 32), (large, 64)):
        found = clone.sampled("ldm-run " + shlex.join(line[:-1]), f"samples/scenes-{size}")
        assert {one.shape for one in found} == {(size, size, 3)} and len(found) == int(line[line.index("--images") + 1])


def test_filling_keeps_known_pixels(clone: Clone) -> None:
    clone.run("inpainting_clothing")
    found = clone.sampled(lines_of("inpainting_clothing")[1], "samples/filled")
    known = np.ones((64, 48), bool)
    known[16:48, 12:36] = False
    with Image.open("examples/inpainting_clothing/photo.jpg") as photo:
        given = np.asarray(photo.convert("RGB").resize((48, 64), Image.Resampling.BICUBIC))
    assert len(found) == 4 and all(np.array_equal(one[known], given[known]) for one in found)
    assert len({one[~known].tobytes() for one in found}) == 4
    assert same(found, by_script(clone, "inpainting_clothing"))


def test_a_whole_picture_is_enlarged(clone: Clone) -> None:
    clone.run("super_resolution_clothing")
    found = clone.sampled(lines_of("super_resolution_clothing")[1], "samples/enlarged")
    assert [one.shape for one in found] == [(192, 144, 3)]
    assert same(found, by_script(clone, "super_resolution_clothing"))


def test_composed_conditions(clone: Clone) -> None:
    clone.run("composed_conditions")
    black, white, scaled = (
        clone.sampled(f"{line} --images 4", f"samples/composed-{i}")
        for i, line in enumerate(lines_of("composed_conditions")[1:4])
    )
    assert len(black) == len(white) == len(scaled) == 4
    assert same(scaled, by_script(clone, "composed_conditions"))
    pair = lines_of("composed_conditions")[4:]
    assert main([*shlex.split(pair[0])[1:], *CUT, "--first-stage", "runs/composed_conditions", "--quiet"]) == 0
    made = clone.sampled(pair[1], "samples/pair")
    assert made[0].shape == (32, 32, 3)


def test_a_drawing_is_drawn_anew(clone: Clone) -> None:
    clone.run("emoji_text")
    once, grid = lines_of("image_to_image")
    found = clone.sampled(once, "samples/anew")
    assert main([*shlex.split(grid)[1:], "--out", "samples/strengths", "--quiet"]) == 0
    assert (clone.folder / "samples/strengths/grid.png").is_file()
    clone.script("image_to_image")("runs/emoji_text", "scripts/anew")
    assert len(pictures(Path("scripts/anew"))) == 12
    assert same(found, [np.asarray(Image.open(f"scripts/anew/0.6-{i:04}.png").convert("RGB")) for i in range(4)])


def test_guiding_by_a_picture(clone: Clone) -> None:
    clone.run("unconditional_clothing")
    near, filled = (clone.sampled(line, f"samples/g{i}") for i, line in enumerate(lines_of("image_guiding")))
    clone.script("image_guiding")("runs/unconditional_clothing", "scripts/guided")
    found = pictures(Path("scripts/guided"))  # four filled, then four near
    assert same(filled, found[:4]) and same(near, found[4:])
    free = clone.sampled("ldm-run sample runs/unconditional_clothing --images 4", "samples/free")
    assert {one.shape for one in found} == {(64, 48, 3)} and not same(free, near) and not same(free, filled)


def test_beyond_the_size_of_training(clone: Clone) -> None:
    clone.run("emoji_text")
    whole, windows, scaled = (
        clone.sampled(line, f"samples/wide{i}") for i, line in enumerate(lines_of("beyond_the_size"))
    )
    height, width = recipe_of("emoji_text")["image_size"], 8 * recipe_of("emoji_text")["image_size"]
    assert {one.shape for one in (*whole, *windows, *scaled)} == {(height, width, 3)} and not same(whole, windows)
    clone.script("beyond_the_size")("runs/emoji_text", "scripts/wide")
    assert same(windows, pictures(Path("scripts/wide"))) and not same(windows, scaled)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_recipe_passes_the_check(name: str, clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    if name in SHARING:
        clone.run("first_stage_clothing")
    line = next(line for line in lines_of(name) if f"examples/{name}/recipe.yaml" in line)
    words = [word for word in words_of(line) if word not in ("train", "--until", "first_stage")]
    words = [word for word in words if not word.startswith(WEIGHTS)]
    at = words.index("--out")
    given = ["stage_objective.perceptual={use: none}"] if WEIGHTS in line else []
    if "--data" in words:
        words[words.index("--data") + 1] = "shapes"
    assert main(["check", *words[:at], *words[at + 2 :], *given]) == 0, capsys.readouterr().err


def test_each_example_is_whole() -> None:
    assert set(FOLDERS) == {*TRAINED, "first_stage_clothing"}
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for name in (*FOLDERS, *SAMPLED, "custom_conditioner"):
        assert f"({name}/README.md)" in table, name
    for name in (*FOLDERS, *SAMPLED):
        script = ROOT / "examples" / name / f"{name}.py"
        assert len(script.read_text(encoding="utf-8").splitlines()) < 40
        readme = (script.parent / "README.md").read_text(encoding="utf-8")
        assert f"python examples/{name}/{name}.py" in readme
        assert name not in TRAINED or "ldm-run show recipes" in readme or name == "composed_conditions"
