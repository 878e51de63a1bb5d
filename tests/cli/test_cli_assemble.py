"""Options -> recipe: what is taken from the recipe, what from the user, and what gives way when it is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from ldm_core import Component, hookimpl
from ldm_core.builtin import plugin as builtin
from ldm_core.catalog import Catalog
from ldm_core.cli.assemble import assemble
from ldm_core.cli.options import RecipeOptions
from ldm_core.errors import ConfigError, DataError
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.shipped import load_plain


@attrs.frozen(kw_only=True)
class _Any:
    stage_objective: ClassVar[str] = "adversarial"
    scale: float = 3.0


@attrs.frozen(kw_only=True)
class _Guiding:
    needs_null: ClassVar[bool] = True
    scale: float = 3.0


@attrs.frozen(kw_only=True)
class _Third:
    scale: float = 3.0


class _Plugin:
    def __init__(self, parts: list[tuple[str, str]]) -> None:
        self.parts = parts

    @hookimpl
    def ldm_components(self) -> list[Component]:
        return [
            Component(
                kind=k, name=n, config={"cfg": _Guiding, "third": _Third}.get(n, _Any), factory="none:none", summary="-"
            )
            for k, n in self.parts
        ]


STANDARD = [
    ("first_stage", "vq_f4"),
    ("first_stage", "kl_f8"),
    ("stage_objective", "adversarial"),
    ("sampler", "ddim"),
    ("guidance", "cfg"),
    ("conditioner", "text"),
    ("conditioner", "bbox_layout"),
]


def catalog(parts: list[tuple[str, str]]) -> Catalog:
    made = Catalog()
    made.register(builtin, "builtin", "ldm-core", "0.1.0")
    made.register(_Plugin(parts), "stand-ins")
    return made


def plain(*settings: str, parts: list[tuple[str, str]] | None = None, **options: Any) -> dict[str, Any]:
    request = RecipeOptions(settings=settings, **options)
    return assemble(request, catalog(STANDARD if parts is None else parts)).plain


def notes(*settings: str, parts: list[tuple[str, str]] | None = None, **options: Any) -> tuple[str, ...]:
    request = RecipeOptions(settings=settings, **options)
    return assemble(request, catalog(STANDARD if parts is None else parts)).notes


def test_without_options_the_laptop_recipe_with_what_is_installed() -> None:
    got = plain()
    assert got["first_stage"] == load_plain("laptop")["first_stage"]
    assert got["conditioners"] == [{"use": "text", "dropout": 0.1}]
    assert (got["sampler"], got["guidance"]) == ({"use": "ddim"}, {"use": "cfg"})
    assert got["scale"] == "small"
    (note,) = notes()
    assert note.startswith("recipe 'laptop': parts scaled down for a CPU (scale: small), images of 32x32, data: the")
    assert "scale=paper" in note and "--recipe FILE" in note and "--data URL" in note and "\n" not in note


def test_the_main_command_is_the_default() -> None:
    """What the README's first command names is what a run without options takes."""
    assert plain(first_stage="vq_f4", cond=("text",), sampler="ddim") == plain()


def test_a_first_stage_with_another_objective_says_so() -> None:
    """The stage names none, so the core's own trains it, and the recipe's is left out."""
    mine: Any = {"parts": [*STANDARD, ("first_stage", "third")], "first_stage": "third"}
    (_, note) = notes(**mine)
    assert note == (
        "first stage 'third' is trained by 'reconstruction', and not by the recipe's 'adversarial' "
        "(stage_objective=adversarial for that)"
    )
    assert "stage_objective" not in plain(**mine)
    assert notes("stage_objective=adversarial", **mine)[1:] == () == notes(first_stage="kl_f8")[1:]
    assert plain("stage_objective=adversarial", **mine)["stage_objective"] == "adversarial"


def test_core_alone_says_what_it_leaves_out() -> None:
    got = plain(parts=[])
    assert (got["first_stage"], got["sampler"], got["guidance"]) == ("identity", "ddpm", "none")
    assert got["conditioners"] == []
    assert notes(parts=[])[1:] == (
        "conditioner 'text' is not installed, going on without it; first stage 'vq_f4' is not installed, using "
        "'identity' instead; sampler 'ddim' is not installed, using 'ddpm' instead",
        "for all of them: pip install ldm-plugin-bert-text ldm-plugin-vq-ae ldm-plugin-ddim",
    )
    most = [part for part in STANDARD if part[0] != "sampler"]
    assert notes(parts=most)[1:] == (
        "sampler 'ddim' is not installed (pip install ldm-plugin-ddim); using 'ddpm' instead",
    )


def test_an_objective_goes_with_its_stage() -> None:
    """The laptop recipe's stays for a stage that is trained by it; one that is not installed is told."""
    assert plain(first_stage="kl_f8")["stage_objective"] == load_plain("laptop")["stage_objective"]
    assert "stage_objective" not in plain(parts=[])
    assert "stage_objective" not in plain("first_stage.use=third", parts=[*STANDARD, ("first_stage", "third")])
    most = [part for part in STANDARD if part[0] != "stage_objective"]
    assert plain(parts=most)["stage_objective"] == "reconstruction"
    (note,) = notes(parts=most)[1:]
    assert note.startswith("stage objective 'adversarial' is not installed (pip install ldm-plugin-adversarial)")


def test_layout_with_core_and_one_plugin() -> None:
    got = plain(parts=[("conditioner", "bbox_layout")], cond=("bbox_layout",))
    assert got["conditioners"] == [{"use": "bbox_layout"}]
    assert (got["first_stage"], got["sampler"], got["guidance"]) == ("identity", "ddpm", "none")
    _, gone, install = notes(parts=[("conditioner", "bbox_layout")], cond=("bbox_layout",))
    assert gone.split("'")[1::4] == ["vq_f4", "ddim", "cfg"]
    assert install == "for all of them: pip install ldm-plugin-vq-ae ldm-plugin-ddim ldm-plugin-cfg"


def test_what_the_user_names_stays_as_named() -> None:
    """Resolving then answers with the pip install; nothing is replaced behind the user's back."""
    got = plain(parts=[], first_stage="vq_f4", sampler="ddim", guidance="cfg", cond=("text",))
    assert (got["first_stage"], got["sampler"], got["guidance"]) == ("vq_f4", {"use": "ddim"}, {"use": "cfg"})
    assert got["conditioners"] == [{"use": "text"}]
    assert plain("first_stage.channels=32", parts=[])["first_stage"] == {"use": "vq_f4", "channels": 32}
    assert plain("sampler=ddim", parts=[])["sampler"] == "ddim"


def test_conditioners() -> None:
    two = [{"use": "text", "dropout": 0.1}, {"use": "bbox_layout", "dropout": 0.1}]
    assert plain(cond=("text", "bbox_layout"))["conditioners"] == two
    assert plain(cond=("none",))["conditioners"] == []
    assert plain(cond=("none",))["guidance"] == "none"
    assert plain(cond=("none",), guidance="cfg")["guidance"] == {"use": "cfg"}
    assert plain("conditioners.text.dropout=0.3", cond=("text",))["conditioners"] == [{"use": "text", "dropout": 0.3}]
    assert plain("conditioners.text.dropout=0.3") == plain("conditioners.text.dropout=0.3", cond=("text",))
    assert plain("conditioners=[bbox_layout]")["conditioners"] == ["bbox_layout"]
    assert plain(cond=("text",), guidance="none")["conditioners"] == [{"use": "text"}]
    with pytest.raises(ConfigError, match="'none' stands alone"):
        plain(cond=("none", "text"))
    with pytest.raises(ConfigError, match="--cond: empty"):
        plain(cond=("",))


def test_guidance_by_name_or_scale() -> None:
    assert plain(guidance="4.5")["guidance"] == {"use": "cfg", "scale": 4.5}
    assert plain(guidance="none")["guidance"] == {"use": "none"}
    with pytest.raises(ConfigError, match="finite scale, got nan"):
        plain(guidance="nan")


def test_steps_seed_prompts() -> None:
    got = plain("sample.images=3", train_steps=5, sample_steps=7, seed=9, prompts=("a", "b"))
    assert got["trainer"]["steps"] == 5
    assert got["trainer"]["lr"] == load_plain("laptop")["trainer"]["lr"], "the recipe's other settings stay"
    assert got["sample"] == {**load_plain("laptop")["sample"], "steps": 7, "prompts": ["a", "b"], "images": 3}
    assert got["seed"] == 9


def test_settings_come_last() -> None:
    assert plain("trainer.steps=8", train_steps=5)["trainer"]["steps"] == 8


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """Nothing is filled in or replaced; the part that is asked for by its own name keeps the recipe's settings."""
    path = tmp_path / "mine.yaml"
    path.write_text("first_stage: {use: kl_f8, scale: 2}\nconditioners: [{use: text, dropout: 0.5}]\nguidance: cfg\n")
    assert plain(recipe=str(path)) == load_plain(str(path))
    assert notes(recipe=str(path)) == ()
    assert plain(recipe=str(path), first_stage="kl_f8")["first_stage"] == {"use": "kl_f8", "scale": 2}
    assert plain(recipe=str(path), first_stage="vq_f4")["first_stage"] == {"use": "vq_f4"}
    both = plain(recipe=str(path), cond=("bbox_layout", "text"))["conditioners"]
    assert both == [{"use": "bbox_layout", "dropout": 0.1}, {"use": "text", "dropout": 0.5}]
    assert plain(recipe=str(path), cond=("none",))["guidance"] == "none"
    assert plain(recipe=str(path), parts=[]) == load_plain(str(path))


def test_joint_dropout_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("guidance: cfg\ntrainer: {joint_dropout: 0.1}\n")
    assert plain(recipe=str(path), cond=("text",))["conditioners"] == [{"use": "text"}]


def test_data_by_name_and_by_url(tmp_path: Path) -> None:
    assert plain(data=("shapes",))["dataset"] == load_plain("laptop")["dataset"]
    (tmp_path / "a.png").write_bytes(b"")
    assert plain(data=(str(tmp_path),))["dataset"] == {"use": "folder", "url": str(tmp_path)}
    url = "s3://bucket/emoji-{000000..000003}.tar"
    assert plain(data=(url,))["dataset"] == {"use": "tar", "url": url}
    got = plain("dataset.split=val", data=(url,))["dataset"]
    assert got == {"use": "tar", "url": url, "split": "val"}


def test_data_alone_says_what_to_set_for_more(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    first, second = notes(data=(str(tmp_path),))
    assert "on your data; for more set scale=paper image_size=256 first_stage_trainer.steps=N trainer.steps=N" in first
    assert second.startswith("no --cond: the model learns the images alone")
    assert plain(data=(str(tmp_path),)).get("conditioners", []) == []
    assert len(notes(data=(str(tmp_path),), cond=("text",))) == 1


def test_full_size_is_said_too() -> None:
    (note,) = notes("scale=paper")
    assert note.startswith("recipe 'laptop' with scale=paper: parts in the paper's size, but images of 32x32 and")


@pytest.mark.parametrize(
    "data, said",
    [
        ("", "--data: empty; give a path or URL, or a data set by name"),
        ("  ", "--data: empty"),
        ("shape", "called 'shape'; did you mean 'shapes'?"),
        ("/no/such/place", "`dataset`: "),
    ],
)
def test_data_that_is_not_there(data: str, said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said.replace("?", r"\?")):
        plain(data=(data,))


def test_a_runs_folder_by_its_bare_name_is_a_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "vq_f4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "first_stage.safetensors").write_bytes(b"weights")
    assert plain(first_stage="mine")["first_stage"] == {"use": "./mine"}
    (tmp_path / "theirs" / "vae").mkdir(parents=True)  # a pipeline of another program
    assert plain(first_stage="theirs")["first_stage"] == {"use": "./theirs"}
    assert plain(first_stage="vq_f4")["first_stage"] == plain()["first_stage"], "an installed name comes first"
    assert plain(first_stage="other")["first_stage"] == {"use": "other"}


@pytest.mark.parametrize("option", ["first_stage", "sampler", "denoiser"])
def test_an_empty_name(option: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')}: empty"):
        empty: dict[str, Any] = {option: ""}
        assemble(RecipeOptions(**empty), catalog(STANDARD))


@pytest.mark.parametrize(
    "setting, said",
    [
        ("image_size=30.5", "image_size: expected pixels such as 64, or .*, got 30.5"),
        ("image_size=abc", "image_size: expected pixels such as 64, or .*, got 'abc'"),
        ("image_size=true", "image_size: expected pixels such as 64, or .*, got True"),
        ("trainer=abc", "trainer: expected"),
        ("sample=3", "sample: expected"),
    ],
)
def test_values_of_another_type(setting: str, said: str) -> None:
    installed = catalog([])
    with pytest.raises(ConfigError, match=said):
        resolve(assemble(RecipeOptions(settings=(setting,)), installed).plain, installed)


def test_an_empty_recipe_and_a_recipe_with_a_mistyped_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--recipe: empty"):
        assemble(RecipeOptions(recipe=" "), catalog([]))
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: many\n")
    with pytest.raises(ConfigError, match=r"trainer: expected settings \(key: value\), got 'many'"):
        assemble(RecipeOptions(recipe=str(mine), train_steps=3), catalog([]))


def test_mistyped_settings_are_all_told() -> None:
    with pytest.raises(ConfigError) as caught:
        plain("trainer.steps", "x..y=3", "conditioners.txt.dropout=1")
    assert len(caught.value.problems) == 3
    assert "did you mean 'text'?" in caught.value.problems[2]


def test_data_keeps_what_the_recipe_says_of_reading(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("dataset: {use: tar, url: old.tar, read: {caption: title}, keep_bytes: 5}\n")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"x")
    made = assemble(RecipeOptions(recipe=str(recipe), data=(str(pictures),)), Catalog.discover()).plain["dataset"]
    assert made == {"use": "folder", "url": str(pictures), "read": {"caption": "title"}}


def test_a_run_as_first_stage_by_its_bare_name_or_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "first_stage.safetensors").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert plain(first_stage="mine")["first_stage"] == {"use": "./mine"}
    for path in (str(tmp_path / "mine"), "./mine", f"file://{tmp_path}/mine"):
        assert plain(first_stage=path)["first_stage"] == {"use": path}
