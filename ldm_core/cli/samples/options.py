"""Options of ``ldm-run sample``. Imports neither torch nor a catalog."""

from __future__ import annotations

from typing import Literal

import attrs

from ldm_core.cli.declaration import option, together
from ldm_core.cli.options import (
    Given,
    InputOptions,
    WeightsOptions,
    device_option,
    force_option,
    json_option,
    places_and_settings,
    quiet_option,
)


@attrs.frozen(kw_only=True)
class PictureOptions:
    """Further prompts, pictures to begin from, the number and seeds of the images."""

    prompts: str | None = option(
        None, "Text file of prompts, one a line; - reads standard input.", metavar="FILE", completes="file"
    )
    negative: tuple[str, ...] = option(
        (),
        "Caption to move away from, in place of none; repeated: gone through in turn, as prompts are.",
        metavar="TEXT",
    )
    image: tuple[str, ...] = option(
        (),
        "Picture for the model's conditioner that reads one (to enlarge, whole and of any size unless --size is given; "
        "to fill in); of a model without, the picture to begin from in place of noise. Repeated: gone through in turn.",
        metavar="PICTURE",
        completes="file",
    )
    mask: tuple[str, ...] = option(
        (),
        "White where the picture is to be filled; or boxes [x, y, w, h] in fractions of it, as JSON. Repeated: gone "
        "through in turn.",
        metavar="FILE|JSON",
        completes="file",
    )
    strength: float | None = option(
        None,
        "Share of the steps that remain from the level to which --image is noised; with it, --image is begun from in "
        "any model.",
        metavar="SHARE",
        above=0,
        maximum=1,
        otherwise="0.75",
    )
    size: str | None = option(
        None,
        "Height and width in pixels, in this order.",
        metavar="HxW",
        otherwise="the model's",
        filled=True,
    )
    images: int | None = option(
        None, "How many; prompts and classes are gone through in turn. Of a grid: in each cell.", metavar="N", minimum=1
    )
    seed: int | None = option(
        None, "Seed of the first image; image i has seed N + i.", metavar="N", minimum=0, otherwise="the recipe's"
    )
    seeds: str | None = option(None, "A seed for each image: 1,2,3 or 7..10.", metavar="LIST")


@attrs.frozen(kw_only=True)
class SamplingOptions:
    """The sampling, where it is not the recipe's."""

    preset: str | None = option(
        None,
        "Settings measured for this model, by name (fast, balanced, best); --help-inputs lists them. Other options and "
        "settings go on top.",
        metavar="NAME",
        filled=True,
    )
    steps: int | None = option(
        None, "Sampler steps.", flags=["--steps", "--sample-steps"], metavar="N", minimum=1, otherwise="the recipe's"
    )
    sampler: str | None = option(
        None, "Another sampler than the recipe's.", metavar="NAME", filled=True, completes="sampler"
    )
    time_grid: str | None = option(
        None, "Another time grid than the recipe's.", metavar="NAME", filled=True, completes="time_grid"
    )
    guidance: str | None = option(
        None,
        "Another guidance than the recipe's, or the scale of the one it has.",
        metavar="NAME|SCALE",
        filled=True,
        completes="guidance",
    )
    like: str | None = option(
        None,
        "Sample as another program's scripts do by default (compvis): sampler, time grid, steps, guidance, levels "
        "cut; other options and settings go on top.",
        metavar="PROGRAM",
    )

    def scale_or_name(self) -> float | str | None:
        """The guidance as a scale, or a component's name."""
        try:
            return None if self.guidance is None else float(self.guidance)
        except ValueError:
            return self.guidance


@attrs.frozen(kw_only=True)
class GridOptions:
    """Settings on the axes of one labelled picture."""

    grid: tuple[str, ...] = option(
        (),
        "Axis of a grid: a setting with its values, guidance=1,3,7 or 'prompt=[a cat, a dog]'. The first makes "
        "columns, the second rows, the third (or several prompts) pages. Takes prompt, negative, class (all: each), "
        "seed, steps, guidance, strength and every setting.",
        metavar="KEY=VALUE,VALUE",
    )


@attrs.frozen(kw_only=True)
class SampleOptions:
    """A model, the images to draw from it, the sampling, and the folder of the pictures."""

    given: Given = places_and_settings(
        1,
        "[MODEL_URL] [KEY=VALUE]...",
        "A run's folder or weights, and settings of the sampling or of foreign weights.",
    )
    weights: str | None = option(None, "The same as MODEL_URL.", metavar="PATH|URL", group="Model", completes="file")
    device: str | None = device_option("Model")
    precision: Literal["fp32", "bf16", "fp16"] | None = option(
        None,
        "Arithmetic of the networks; bf16 is faster where the machine has instructions for it.",
        group="Model",
        otherwise="that of --preset, or fp32",
    )
    foreign: WeightsOptions = together(WeightsOptions, "Weights of other programs")
    inputs: InputOptions = together(InputOptions, "Images")
    pictures: PictureOptions = together(PictureOptions, "Images")
    sampling: SamplingOptions = together(SamplingOptions, "Sampling")
    grids: GridOptions = together(GridOptions, "Sampling")
    batch: int | None = option(
        None,
        "Images sampled together; changes the speed. A few pixels may differ by 1/255, as sums of other sizes are "
        "rounded otherwise.",
        metavar="N",
        minimum=1,
        group="Sampling",
    )
    strict: bool = option(False, "Errors instead of warnings, e.g. for a prompt that is too long.", group="Sampling")
    out: str | None = option(
        None,
        "Where the PNGs go.",
        metavar="FOLDER",
        group="Output",
        otherwise="samples or, where that is there, samples-2, samples-3, ...",
        completes="folder",
    )
    force: bool = force_option("Overwrite pictures of the same names in --out.", "Output")
    help_inputs: bool = option(
        False, "Say what this model takes, key by key, with a command that can be pasted; sample nothing."
    )
    json: bool = json_option()
    quiet: bool = quiet_option("No progress.")
