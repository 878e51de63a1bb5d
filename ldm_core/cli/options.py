"""Options that several commands share, each declared once. Imports neither torch nor a catalog."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import click

from ldm_core.cli.declaration import Field, option, together

if TYPE_CHECKING:
    from ldm_core.weights.open import Wanted

SETTINGS = (
    "Every other setting is KEY=VALUE: trainer.lr=1e-4, first_stage.channels=64, conditioners.text.dropout=0.2. "
    "See `ldm-run show NAME` for a component's settings, `ldm-run show trainer` for the trainer's, `ldm-run check` for "
    "the whole recipe."
)
"""The last lines of the help of every command that takes the settings of a run."""


def json_option() -> Field:
    """Declare ``--json``."""
    return option(False, "One JSON document on stdout, all else on stderr.")


def quiet_option(help: str = "No progress and no notes.") -> Field:
    """Declare ``--quiet``."""
    return option(False, help)


def force_option(help: str, group: str) -> Field:
    """Declare ``--force``: files that are in the way may be replaced."""
    return option(False, help, group=group)


def device_option(group: str) -> Field:
    """Declare ``--device``."""
    return option(None, "cpu, cuda, ...", metavar="NAME", group=group, otherwise="cuda where there is one", filled=True)


def codec_option(group: str = "") -> Field:
    """Declare ``--from``."""
    return option(
        "",
        "Their format.",
        flags=["--from"],
        metavar="CODEC",
        group=group,
        otherwise="what knows them",
        completes="codec",
    )


def sha256_option(group: str = "") -> Field:
    """Declare ``--sha256``."""
    return option("", "The hash that the file must have, 64 hex digits.", metavar="HEX", group=group)


@attrs.frozen(kw_only=True)
class RecipeOptions:
    """The choice of a recipe and its parts; None and empty stand for "not said"."""

    recipe: str | None = option(
        None,
        "Recipe to start from: a shipped one (`ldm-run show recipes`), or a .yaml file.",
        metavar="NAME|URL",
        otherwise="laptop",
        completes="recipe",
    )
    first_stage: str | None = option(
        None, "First stage: a component or preset, or trained weights.", metavar="NAME|URL", completes="first_stage"
    )
    init_from: str | None = option(
        None,
        "Trained weights to start from: a run, or weights of another program.",
        metavar="PATH|URL",
        completes="file",
    )
    denoiser: str | None = option(None, "The network.", metavar="NAME", completes="denoiser")
    cond: tuple[str, ...] = option(
        (), "Conditioner; repeat for several; 'none' for none.", metavar="NAME", completes="conditioner"
    )
    sampler: str | None = option(None, "Sampler.", metavar="NAME", completes="sampler")
    time_grid: str | None = option(
        None, "Time grid: at which levels the sampler asks the model.", metavar="NAME", completes="time_grid"
    )
    guidance: str | None = option(
        None, "Guidance, or the scale of classifier-free guidance.", metavar="NAME|SCALE", completes="guidance"
    )
    data: tuple[str, ...] = option(
        (), "A data set by name, folder, tar or URL pattern; repeat to mix.", metavar="NAME|URL", completes="dataset"
    )
    train_steps: int | None = option(None, "Steps of the denoiser's training.", metavar="N", minimum=1)
    sample_steps: int | None = option(None, "Steps of the sampler.", metavar="N", minimum=1)
    seed: int | None = option(None, "Seed of weights, noise and data order.", metavar="N", minimum=0)
    prompts: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def names(self, key: str) -> bool:
        """Tell if the user gave the recipe's top-level key `key`, by option or setting."""
        field = {"conditioners": "cond", "dataset": "data"}.get(key, key)
        said = getattr(self, field, None) not in (None, ())
        return said or any(s.partition("=")[0].partition(".")[0].strip() == key for s in self.settings)


@attrs.frozen(kw_only=True)
class InputOptions:
    """The inputs that steer the samples."""

    prompt: tuple[str, ...] = option((), "Caption to sample; repeat for several.", metavar="TEXT")
    input: tuple[str, ...] = option(
        (), "Input of any conditioner, by the key it reads; repeat for several.", metavar="KEY=VALUE|KEY=@FILE"
    )
    boxes: str | None = option(
        None,
        'Layout: {"boxes": [[x, y, w, h], ...], "labels": [...]}, in 0 to 1.',
        metavar="FILE|JSON",
        completes="file",
    )
    segmentation: str | None = option(
        None,
        "Label map: a PNG whose pixel values are classes, or rows of numbers as JSON.",
        metavar="FILE|JSON",
        completes="file",
    )
    class_label: tuple[str, ...] = option(
        (), "Class to sample; repeat for several, 'all' for each.", flags=["--class"], metavar="NAME|ID"
    )

    def read(self, image_channels: int, size: tuple[int, int], keys: Mapping[str, str]) -> dict[str, Any]:
        """Read all but the prompts and classes, for images of `size` (h, w) and keys of these geometries; see
        ``cli.inputs.read_inputs``."""
        from ldm_core.cli.inputs import read_inputs
        from ldm_core.errors import ConfigError

        found = read_inputs(
            self.input,
            boxes=self.boxes,
            segmentation=self.segmentation,
            image_channels=image_channels,
            size=size,
            keys=keys,
        )
        if self.class_label and "class_label" in found:
            raise ConfigError("'class_label' is given twice, by --input and by --class; give it once")
        return found


@attrs.frozen(kw_only=True)
class WeightsOptions:
    """The facts that a user gives of weights that another program wrote."""

    codec: str = codec_option()
    sha256: str = sha256_option()
    first_stage: str = option(
        "", "A first stage for a denoiser that comes without one.", metavar="PATH|URL", completes="file"
    )
    partial: bool = option(False, "Take them though tensors lack or are left over, and say which.")

    def wanted(self, settings: list[str]) -> Wanted:
        """Combine these with ``KEY=VALUE`` settings of the weights."""
        from ldm_core.weights.open import Wanted

        return Wanted.of(
            settings, codec=self.codec, sha256=self.sha256, first_stage=self.first_stage, partial=self.partial
        )


@attrs.frozen(kw_only=True)
class LaunchOptions:
    """The processes of a run."""

    nproc: int | None = option(
        None, "Processes of the run on this machine, started here: one a GPU.", metavar="N", minimum=1
    )
    timeout: float | None = option(
        None,
        "How long a process waits for another that does not answer.",
        metavar="MINUTES",
        above=0,
        otherwise="30, or LDM_TIMEOUT",
    )
    # DeepSpeed's launcher gives it to what it starts; the variable LOCAL_RANK says the same.
    local_rank: str | None = option(None, "", flags=["--local_rank", "--local-rank"], hidden=True)


def _only_settings(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for item in value:
        if "=" not in item:
            recipe = f"--recipe {item} takes a recipe" if item.endswith((".yaml", ".yml")) else ""
            ctx.fail(f"unexpected argument '{item}'; {recipe or 'a setting is KEY=VALUE, such as trainer.steps=1000'}")
    return value


def settings_argument() -> Field:
    """Declare the ``KEY=VALUE`` settings of a run: a tuple of text."""
    help = "Any setting of the recipe, such as trainer.steps=1000."
    how = {"argument": True, "metavar": "[KEY=VALUE]...", "callback": _only_settings, "completes": "setting"}
    return attrs.field(default=(), metadata={"help": help, "how": how})


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of ``ldm-run`` itself, ``train`` and ``check``."""

    recipe: RecipeOptions = together(RecipeOptions, "Recipe")
    inputs: InputOptions = together(InputOptions, "Samples")
    out: str | None = option(
        None,
        "Folder of the run.",
        metavar="URL",
        group="Run",
        otherwise="runs/, with a name from the recipe",
        completes="folder",
    )
    launch: LaunchOptions = together(LaunchOptions, "Run")
    strict: bool = option(False, "Errors instead of warnings, e.g. for a prompt that is too long.", group="Run")
    force: bool = force_option("Overwrite files in --out that the run did not write, where it uses their names.", "Run")
    json: bool = json_option()
    quiet: bool = quiet_option()
    settings: tuple[str, ...] = settings_argument()

    @property
    def request(self) -> RecipeOptions:
        """The choice of a recipe with the settings and prompts."""
        return attrs.evolve(self.recipe, prompts=self.inputs.prompt, settings=self.settings)


@attrs.frozen
class Given:
    """The words of a command line beside its options: paths or URLs, and ``KEY=VALUE`` settings."""

    places: list[str]
    settings: list[str]


def places_and_settings(places: int, metavar: str, help: str) -> Field:
    """Declare up to `places` paths or URLs and any number of settings, in any order: a :class:`Given`."""

    def split(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Given:
        alike = [bool(re.match(r"[A-Za-z_][\w.]*=", item)) for item in value]
        left = places - alike.count(False)
        for i, item in enumerate(value):
            if alike[i] and left > 0 and os.path.lexists(item):  # a run called lr=1e-3: what is there is a place
                alike[i], left = False, left - 1
        settings = [item for item, setting in zip(value, alike, strict=True) if setting]
        rest = [item for item, setting in zip(value, alike, strict=True) if not setting]
        if len(rest) > places:
            ctx.fail(f"unexpected argument '{rest[places]}'; a setting is KEY=VALUE, such as image_size=512")
        return Given(rest, settings)

    how: dict[str, Any] = {"argument": True, "metavar": metavar, "callback": split, "many": True, "completes": "place"}
    return attrs.field(default=Given([], []), metadata={"help": help, "how": how})
