"""Make a recipe, as plain values, of the command line's options; note the choices made for the user. Torch-free."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli.options import RecipeOptions
from ldm_core.config.overrides import apply_overrides
from ldm_core.contracts import configs
from ldm_core.contracts.configs import FirstStageConfig, GuidanceConfig
from ldm_core.errors import ConfigError, quoted, suggest
from ldm_core.recipe import artifacts, keys, shipped
from ldm_core.recipe.keys import use_of
from ldm_core.recipe.places import described
from ldm_core.recipe.shipped import LAPTOP
from ldm_core.weights.convert import finder

PREFERRED: Mapping[str, Any] = {
    "conditioners": [{"use": "text"}],
    "sampler": {"use": "ddim"},
    "guidance": {"use": "cfg"},
}
"""Parts of the laptop recipe, if they are installed and neither the recipe nor the user names others."""
DROPOUT = 0.1
"""Share of training examples without a conditioner of ``--cond``, if guidance needs the other case."""
TAKEN = (
    "image_size",
    "image_channels",
    "conditioners",
    "denoiser",
    "schedule",
    "parameterization",
    "objective",
    "time_grid",
    "sampler",
    "guidance",
)
"""Keys of a run without a recipe, taken from its starting weights."""
LEARNING_RATE = 1e-5
"""The rate of such a run; at that of a fresh model, trained weights are lost."""


@attrs.frozen
class Assembled:
    """A recipe as plain values, not yet resolved, and the lines to tell the user first."""

    plain: dict[str, Any]
    notes: tuple[str, ...]


def assemble(request: RecipeOptions, catalog: Catalog) -> Assembled:
    """Apply the options, then the settings, to the recipe.

    Without ``--recipe`` the small shipped recipe is taken; there, missing parts not named by the user give way to
    built-in ones, and a note says so. Raises :class:`ConfigError` and the errors of loading.
    """
    if request.recipe is not None and not request.recipe.strip():
        raise ConfigError("--recipe: empty; give a shipped recipe's name or the path or URL of a .yaml file")
    plain = shipped.default(catalog) if request.recipe is None else shipped.load_plain(request.recipe)
    notes: list[str] = []
    if request.init_from is not None:
        whole, first_stage = request.recipe is None, not request.names("first_stage")
        url = _given(request.init_from, "init_from")
        notes += _start_from(plain, url, catalog, whole=whole, first_stage=first_stage)
    _parts(plain, request, catalog)
    if request.recipe is None:
        notes += _suit(plain, _stage(plain, request), request, catalog)
    _numbers(plain, request)
    _conditioners(plain, request)
    if request.recipe is None and request.init_from is None:
        notes += _use_what_is_installed(plain, request, catalog)
    chosen_for_the_user = request.recipe is None or bool(request.cond)
    if chosen_for_the_user and not plain.get("conditioners") and not request.names("guidance"):
        plain["guidance"] = "none"  # with nothing to leave out there is nothing to guide by
    _dropout(plain, request, catalog)
    apply_overrides(plain, request.settings, keys.SINGLE)
    if request.recipe is None and request.init_from is None:
        notes.insert(0, _laptop_note(plain))
    return Assembled(plain, tuple(notes))


def _parts(plain: dict[str, Any], request: RecipeOptions, catalog: Catalog) -> None:
    for kind in ("first_stage", "denoiser", "sampler", "time_grid"):
        if (name := getattr(request, kind)) is not None:
            if kind == "first_stage" and name not in catalog.names(kind) and _is_bare_run(name):
                name = f"./{name}"  # a folder here, said by its bare name
            plain[kind] = _chosen(plain.get(kind), _given(name, kind))
    if request.data:
        plain["dataset"] = _data_sets(request, plain.get("dataset"), catalog)
    if request.guidance is not None:
        plain["guidance"] = _guidance(request.guidance, plain.get("guidance"))


def _stage(plain: Mapping[str, Any], request: RecipeOptions) -> Any:
    """The first stage as the settings leave it; mistakes in them are told when all settings are applied."""
    said = [s for s in request.settings if s.partition("=")[0].partition(".")[0].strip() == "first_stage"]
    trial = {"first_stage": deepcopy(plain.get("first_stage"))}
    with contextlib.suppress(ConfigError):
        apply_overrides(trial, said, keys.SINGLE)
    return trial["first_stage"]


def _suit(plain: dict[str, object], stage: object, request: RecipeOptions, catalog: Catalog) -> list[str]:
    """Leave the recipe's objective out beside a first stage with another one; return the user's lines on it."""
    had = use_of(plain.get("stage_objective"))
    if shipped.suited(plain, stage, catalog).keys() == plain.keys():
        return []
    del plain["stage_objective"]
    if request.names("stage_objective"):
        return []
    entry, preset = catalog.get("first_stage", use_of(stage))
    own = configs.of(FirstStageConfig, preset or entry.component.config).stage_objective
    named = f"first stage '{use_of(stage)}' is trained by '{own}', and not by the recipe's '{had}'"
    return [f"{named} (stage_objective={had} for that)"] if own else []


def _numbers(plain: dict[str, Any], request: RecipeOptions) -> None:
    for key, field, value in (
        ("trainer", "steps", request.train_steps),
        ("sample", "steps", request.sample_steps),
        ("sample", "prompts", list(request.prompts) or None),
    ):
        if value is not None:
            plain[key] = {**_section(plain, key), field: value}
    if request.seed is not None:
        plain["seed"] = request.seed


def _start_from(plain: dict[str, Any], url: str, catalog: Catalog, *, whole: bool, first_stage: bool) -> list[str]:
    """Let the recipe `plain` start from the weights at `url`; return lines for the user.

    `whole`: take the architecture from them too, as no recipe was given. `first_stage`: take theirs, if they have one,
    as the user named none. Raises CheckpointError if they are no model.
    """
    model = finder(catalog)(url, artifacts.MODEL_FILE)
    header = artifacts.read_header(model, "model", sha256="unread")
    where = storage.shown(url)
    trainer = plain.get("trainer")
    plain["trainer"] = {**(trainer if isinstance(trainer, Mapping) else {}), "init_from": url}
    notes = []
    if whole:
        plain.pop("scale", None)
        theirs = described({key: header.config[key] for key in TAKEN if key in header.config}, catalog)
        plain.update(theirs)
        plain["trainer"]["lr"] = LEARNING_RATE
        notes.append(
            f"--init-from {where}: the model is built as those weights are, and trained as the recipe 'laptop' says, "
            f"with trainer.lr={LEARNING_RATE:g}; for more set trainer.steps=N, or give --recipe"
        )
    stage = storage.join(storage.parent(model), artifacts.STAGE_FILE)
    if first_stage and storage.exists(stage):
        native = model == url  # a file of ours, whose first stage lies beside it
        plain["first_stage"] = {"weights": stage if native else url}
        notes.append(f"--init-from {where}: its first stage is taken, frozen (another one: --first-stage)")
    return notes


def _is_bare_run(name: str) -> bool:
    """Tell a folder here (a run, a pipeline), named without a slash, from a component."""
    return bool(name.strip()) and not artifacts.is_weights(name) and storage.is_folder(name)


def _section(plain: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = plain.get(key) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}: expected settings (key: value), got {quoted(value)}")
    return value


def _given(name: str, kind: str) -> str:
    if not name.strip():
        raise ConfigError(f"--{kind.replace('_', '-')}: empty; give a name (see `ldm-run plugins`)")
    return name


def _chosen(part: Any, name: str) -> Any:
    """Keep the recipe's own part, with its settings, if it is the requested one."""
    return part if use_of(part) == name else {"use": name}


def _guidance(text: str, part: Any) -> Any:
    try:
        scale = float(text)
    except ValueError:
        return _chosen(part, _given(text, "guidance"))
    if not math.isfinite(scale):
        raise ConfigError(f"--guidance: expected a name or a finite scale, got {text}")
    return {**(part if isinstance(part, Mapping) and use_of(part) == "cfg" else {"use": "cfg"}), "scale": scale}


def _data_sets(request: RecipeOptions, part: Any, catalog: Catalog) -> Any:
    """Make one data set, or a list to mix; each keeps the settings of the recipe's, and its weight."""
    own, texts = list(part) if isinstance(part, list | tuple) else [part], request.data
    made = []
    for i, text in enumerate(texts):
        before = own[i] if len(own) == len(texts) else own[0] if len(own) == 1 else None
        said = [f"dataset.{i}.use=", *(["dataset.use="] if len(texts) == 1 else [])]
        uses = [s.partition("=")[2].strip() for s in request.settings if s.replace(" ", "").startswith(tuple(said))]
        made.append(_data(text, before, catalog, uses[-1] if uses else ""))
    if len(made) > 1:
        return made
    return {k: v for k, v in made[0].items() if k != "weight"} if isinstance(made[0], Mapping) else made[0]


def _data(text: str, part: Any, catalog: Catalog, said: str) -> Any:
    """Choose the reader of `text` by the files there, or as `said` by a setting."""
    known = catalog.names("dataset")
    if not text.strip():
        raise ConfigError(f"--data: empty; give a path or URL, or a data set by name ({', '.join(known)})")
    if text in known:
        return _chosen(part, text)
    plain_word = not any(sign in text for sign in "/\\.{*:")
    if plain_word and not storage.exists(text):
        raise ConfigError(
            f"--data: no data set and no file or folder is called '{text}'{suggest(text, known)} "
            f"(data sets: {', '.join(known)})"
        )
    from ldm_core.data.records.guess import guess_reader, kept_settings

    use = said if said in ("tar", "folder") else guess_reader(text, catalog)
    return {**kept_settings(part, use), "use": use, "url": text}


def _as_list(value: Any) -> list[Any]:
    if not value:
        return []
    return [value] if isinstance(value, str | Mapping) else list(value)


def _conditioners(plain: dict[str, Any], request: RecipeOptions) -> None:
    if not request.cond:
        return
    if "none" in request.cond:
        if len(request.cond) > 1:
            raise ConfigError("--cond: 'none' stands alone; leave it out, or the others")
        plain["conditioners"] = []
        return
    own = {use_of(part): part for part in _as_list(plain.get("conditioners"))}
    plain["conditioners"] = [own.get(_given(name, "cond"), {"use": name}) for name in request.cond]


def _dropout(plain: dict[str, Any], request: RecipeOptions, catalog: Catalog) -> None:
    """Let the user's conditioners be dropped in training if the guidance needs it."""
    chosen_here = request.cond or request.recipe is None
    if not chosen_here or _section(plain, "trainer").get("joint_dropout"):
        return
    guidance = use_of(plain.get("guidance", keys.DEFAULTS["guidance"]))
    if guidance not in catalog.names("guidance"):
        return
    entry, _ = catalog.get("guidance", guidance)
    if configs.of(GuidanceConfig, entry.component.config).needs_null is False:
        return  # no scale needs it; where a property says so, some scales may
    parts = [part if isinstance(part, Mapping) else {"use": part} for part in _as_list(plain.get("conditioners"))]
    plain["conditioners"] = [{**part, "dropout": part.get("dropout", DROPOUT)} for part in parts]


def _use_what_is_installed(plain: dict[str, Any], request: RecipeOptions, catalog: Catalog) -> Iterable[str]:
    """Fill in the preferred parts; put built-in ones in the place of missing ones.

    Parts named by the user stay. Yields the parts replaced, and the command to install all of them.
    """
    lacking: list[tuple[str, str]] = []
    gone: list[str] = []
    replaced = request.cond or any(s.partition("=")[0].strip() == "conditioners" for s in request.settings)
    if not replaced and "conditioners" not in plain:
        if use_of(plain.get("dataset")) in ("", keys.DEFAULTS["dataset"]):
            plain["conditioners"] = list(PREFERRED["conditioners"])
        else:
            yield (
                "no --cond: the model learns the images alone (--cond text steers by captions, --cond class_label by "
                "classes)"
            )
    for part in [] if request.names("conditioners") else _as_list(plain.get("conditioners")):
        if use_of(part) not in catalog.names("conditioner"):
            plain["conditioners"] = [p for p in _as_list(plain["conditioners"]) if p is not part]
            lacking.append(("conditioner", use_of(part)))
            gone.append("going on without it")
    for kind in ("first_stage", "stage_objective", "sampler", "guidance"):
        if request.names(kind) or (kind == "stage_objective" and kind not in plain):
            continue
        name = use_of(plain.setdefault(kind, PREFERRED.get(kind, keys.DEFAULTS[kind])))
        needless = kind == "guidance" and not plain.get("conditioners")
        if name not in catalog.names(kind) and not needless:
            plain[kind] = keys.DEFAULTS[kind]
            if kind == "first_stage":  # pixels need no objective
                plain.pop("stage_objective", None)
            lacking.append((kind, name))
            gone.append(f"using '{plain[kind]}' instead")
    named = [f"{kind.replace('_', ' ')} '{name}' is not installed" for kind, name in lacking]
    brings = catalog.lacking(lacking)
    if len(named) < 2:
        install = f" (pip install {' '.join(brings)})" if brings else ""
        yield from (f"{what}{install}; {how}" for what, how in zip(named, gone, strict=True))
        return
    yield "; ".join(f"{what}, {how}" for what, how in zip(named, gone, strict=True))
    if brings:
        yield f"for all of them: pip install {' '.join(brings)}"


def _laptop_note(plain: Mapping[str, Any]) -> str:
    size = plain.get("image_size")
    size = "x".join(map(str, size)) if isinstance(size, list | tuple) else f"{size}x{size}"
    steps = _section(plain, "trainer").get("steps")
    if plain.get("scale") != "small":
        return (
            f"recipe '{LAPTOP}' with scale={plain.get('scale', 'paper')}: parts in the paper's size, but images of "
            f"{size} and {steps} steps; set image_size, first_stage_trainer.steps and trainer.steps for more"
        )
    small = f"recipe '{LAPTOP}': parts scaled down for a CPU (scale: small), images of {size}"
    more = "scale=paper image_size=256 first_stage_trainer.steps=N trainer.steps=N, or --recipe FILE"
    if use_of(plain.get("dataset")) != keys.DEFAULTS["dataset"]:
        return f"{small}, {steps} steps on your data; for more set {more}"
    return f"{small}, data: the embedded 'shapes'; for the full size set {more}, and give your data with --data URL"
