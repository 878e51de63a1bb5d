"""The example of a conditioner outside the core: found by its entry point, and its README's command lines run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Command, forked
from PIL import Image

from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.errors import ComponentError, DataError
from ldm_core.model.parts import make
from ldm_core.recipe.resolve import resolve
from ldm_core.training.feed.examples import Examples

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "custom_conditioner"
COMMANDS = re.findall(r"^    (ldm-run .*)$", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
TINY = [
    *("image_size=16", "dataset.scenes=16", "dataset.val_scenes=4", "sample.images=2", "sample.steps=2"),
    *("first_stage=identity", "trainer.steps=2", "trainer.images_per_step=4", "denoiser.channels=16"),
    *("denoiser.channel_mult=[1]", "denoiser.attention=[1]", "denoiser.heads=2", "denoiser.norm_groups=8"),
    "observers=[]",
]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    found = Catalog.discover()
    try:
        found.get("conditioner", "palette")
    except ComponentError as error:
        pytest.fail(f"these tests need the example: pip install ./examples/custom_conditioner ({error})")
    return found


def ldm_run(*lines: list[str]) -> list[str]:
    """The outputs of commands, each in a process of its own."""
    commands = [Command(["ldm_core.cli", *line[1:]], ROOT) for line in lines]
    ended = forked(commands)
    for each in ended:
        assert each.code == 0, each.err
    return [each.out for each in ended]


def test_it_comes_from_its_own_distribution(catalog: Catalog) -> None:
    for kind, name in (("conditioner", "palette"), ("dataset", "shapes_palette")):
        assert catalog.get(kind, name)[0].distribution == "ldm-example-palette"
    core = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "ldm_core").rglob("*.py"))
    assert "ldm_example_palette" not in core and "shapes_palette" not in core


def test_the_readmes_lines_train_and_sample(catalog: Catalog, tmp_path: Path) -> None:
    listing, train, sample, *_ = COMMANDS
    out = str(tmp_path / "palette")
    assert "--cond palette --data shapes_palette --out runs/palette" in train and "runs/palette" in sample
    few = sample.replace("runs/palette", out).replace("--images 8", "--images 2")
    listed, trained, _ = ldm_run(
        shlex.split(listing),
        [*shlex.split(train.replace("runs/palette", out)), *TINY, "--json"],
        [*shlex.split(few), "--out", str(tmp_path / "more")],
    )
    assert {"palette", "shapes_palette"} <= set(listed.split())
    assert json.loads(trained)["status"] == "done"
    made = sorted((tmp_path / "more").rglob("*.png"))
    assert made and all(Image.open(p).size[0] >= 16 for p in made)


def test_the_data_sets_palettes_are_the_colours_shown(catalog: Catalog) -> None:
    recipe = resolve({"dataset": {"use": "shapes_palette", "scenes": 30}, "image_size": 32}, catalog)
    data = make(recipe.dataset, Site(size=(32, 32)), catalog)
    for index in range(30):
        example = data[index]
        regions, palette = example["segmentation"], example["palette"]
        assert palette.dtype == np.uint8 and palette.shape == (len(np.unique(regions)), 3)
        assert palette.shape[0] >= 2  # a background and an object at least
        # plain scenes: the background's colour is that of its own pixels, but for the soft edges of objects
        corner = example["image"][:, regions == 0]
        assert np.abs(np.median(corner, 1) - palette[0]).max() <= 12
    narrow = Examples(data, (32, 32), recipe.data, ["palette"])
    assert set(narrow[0]) == {"palette"} and (narrow[0]["palette"] == data[0]["palette"]).all()


def test_palettes_of_any_form_and_length(catalog: Catalog) -> None:
    recipe = resolve({"conditioners": [{"use": "palette", "width": 8}]}, catalog)
    conditioner = make(recipe.conditioners[0], Site(size=(16, 16)), catalog)
    colours = [[255, 0, 0], [0, 0, 255]]
    forms = [colours, np.array(colours), np.array(colours, np.uint8), torch.tensor(colours)]
    tokens = [conditioner.encode({"palette": [form]}).crossattn for form in forms]
    assert all(torch.equal(t, tokens[0]) for t in tokens)
    assert torch.equal(conditioner.encode({"palette": torch.tensor([colours])}).crossattn, tokens[0])
    ragged = conditioner.encode({"palette": [colours, [*colours, [9, 9, 9]]]})
    assert ragged.crossattn.shape == (2, 3, 8)
    assert ragged.crossattn_mask.tolist() == [[True, True, False], [True, True, True]]
    torch.testing.assert_close(ragged.crossattn[0, :2], tokens[0][0])
    for wrong in ([], [1, 2, 3], [[1, 2]], "red", [[1, 2, 300]], [["a", "b", "c"]]):
        with pytest.raises(DataError, match="the palette of example 0"):
            conditioner.encode({"palette": [wrong]})
