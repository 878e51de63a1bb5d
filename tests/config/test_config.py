"""The strict converter: nothing coerced, every mistake at once with its path; YAML; overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import pytest

from ldm_core.config.documents import dump_yaml, parse_yaml
from ldm_core.config.fields import field, later_defaults, same_keys
from ldm_core.config.overrides import apply_overrides
from ldm_core.config.structure import field_table, structure, unstructure
from ldm_core.errors import ConfigError


@attrs.frozen(kw_only=True)
class Inner:
    rate: float = 0.1
    kind: Literal["small", "large"] = "small"


@attrs.frozen(kw_only=True)
class Outer:
    latent_channels: int = 4
    scale: float = attrs.field(default=1.0, metadata={"help": "how much"})
    learn: bool = True
    name: str = "x"
    channel_mult: tuple[int, ...] = (1, 2)
    size: tuple[int, int] = (32, 32)
    seed: int | None = None
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    read: Mapping[str, str] = attrs.field(factory=dict)
    free: Mapping[str, Any] = attrs.field(factory=dict)
    either: int | str = 0


def problems(value: Any, target: type = Outer, path: str = "") -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        structure(value, target, path)
    return caught.value.problems


@pytest.mark.parametrize(
    ("plain", "line"),
    [
        ({"latent_channels": 3.9}, "latent_channels: expected an integer, got 3.9"),
        ({"latent_channels": 4.0}, "latent_channels: expected an integer, got 4.0"),
        ({"latent_channels": True}, "latent_channels: expected an integer, got True"),
        ({"latent_channels": "4"}, "latent_channels: expected an integer, got '4'"),
        ({"scale": "1.0"}, "scale: expected a number, got '1.0'"),
        ({"scale": False}, "scale: expected a number, got False"),
        ({"scale": float("nan")}, "scale: expected a finite number, got nan"),
        ({"scale": float("inf")}, "scale: expected a finite number, got inf"),
        ({"learn": "false"}, "learn: expected true or false, got 'false'"),
        ({"learn": 0}, "learn: expected true or false, got 0"),
        ({"name": 5}, "name: expected text, got 5 (put it in quotes)"),
        ({"channel_mult": [1, 2, "x"]}, "channel_mult[2]: expected an integer, got 'x'"),
        ({"channel_mult": ["x", 2]}, "channel_mult[0]: expected an integer, got 'x'"),
        ({"channel_mult": 3}, "channel_mult: expected a list, got 3"),
        ({"channel_mult": "12"}, "channel_mult: expected a list, got '12'"),
        ({"size": [1, 2, 3]}, "size: expected 2 values, got [1, 2, 3]"),
        ({"seed": "one"}, "seed: expected an integer, got 'one'"),
        ({"inner": {"rate": "x"}}, "inner.rate: expected a number, got 'x'"),
        ({"inner": {"kind": "lrage"}}, "inner.kind: expected one of small, large, got 'lrage'; did you mean 'large'?"),
        ({"inner": 3}, "inner: expected a mapping of settings, got 3"),
        ({"many": [{}, {"rate": "x"}]}, "many[1].rate: expected a number, got 'x'"),
        ({"read": {"caption": 3}}, "read: expected text, got 3 (put it in quotes)"),
        ({"read": [1]}, "read: expected a mapping, got [1]"),
        ({"latent_chanels": 4}, "latent_chanels: unknown key; did you mean 'latent_channels'?"),
        ({"inner": {"rat": 1}}, "inner.rat: unknown key; did you mean 'rate'?"),
        ({"inner": {"zzz": 1}}, "inner.zzz: unknown key (known: rate, kind)"),
        ({"either": 1.5}, "either: expected an integer, got 1.5 or expected text, got 1.5 (put it in quotes)"),
    ],
)
def test_mistakes(plain: dict[str, Any], line: str) -> None:
    assert problems(plain) == (line,)
    assert problems(plain, path="first_stage") == (f"first_stage.{line}",)


def test_all_mistakes_at_once() -> None:
    found = problems(
        {"latent_channels": "x", "learn": 1, "inner": {"rate": None, "nope": 1}, "channel_mult": [1, "a", "b"], "zz": 0}
    )
    paths = sorted(line.split(":")[0] for line in found)
    assert paths == ["channel_mult[1]", "channel_mult[2]", "inner.nope", "inner.rate", "latent_channels", "learn", "zz"]


def test_a_missing_field_and_a_wrong_document() -> None:
    @attrs.frozen(kw_only=True)
    class Needs:
        url: str

    (line,) = problems({}, Needs, "dataset")
    assert "url" in line and "missing" in line
    for value in (3, None, ["a"], "text"):
        (line,) = problems(value, Outer, "recipe")
        assert line.startswith("recipe: expected a mapping")


def test_validators_speak_with_their_path() -> None:
    @attrs.frozen(kw_only=True)
    class Positive:
        steps: int = attrs.field(default=1, validator=attrs.validators.gt(0))

    (line,) = problems({"inner": 1, "steps": -3}, Positive, "trainer")[:1]
    assert line.startswith("trainer.")
    assert any("-3" in p or "steps" in p for p in problems({"steps": -3}, Positive, "trainer"))


def test_what_is_right_is_taken_as_it_is() -> None:
    built = structure(
        {
            "latent_channels": 16,
            "scale": 2,
            "learn": False,
            "channel_mult": [1, 2, 4],
            "size": [16, 24],
            "seed": None,
            "inner": {"rate": 1, "kind": "large"},
            "many": [{"rate": 0.5}],
            "read": {"caption": "title"},
            "free": {"a": [1, {"b": None}]},
            "either": "word",
        },
        Outer,
    )
    assert built.scale == 2.0 and isinstance(built.scale, float)
    assert built.channel_mult == (1, 2, 4) and built.size == (16, 24) and built.seed is None
    assert built.inner == Inner(rate=1.0, kind="large") and built.many == (Inner(rate=0.5),)
    assert built.read == {"caption": "title"} and built.free == {"a": [1, {"b": None}]}
    with pytest.raises(TypeError):
        built.read["x"] = "y"  # type: ignore[index]


def test_round_trip_through_yaml() -> None:
    built = Outer(scale=1e-4, channel_mult=(3,), seed=7, many=(Inner(), Inner(kind="large")), name="off: 1e3 é")
    text = dump_yaml(unstructure(built))
    assert structure(parse_yaml(text, "recipe.yaml"), Outer) == built
    assert text.splitlines()[0] == "latent_channels: 4"  # in the order of the fields


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-4", 1e-4),
        ("a: 3.0e-4", 3e-4),
        ("a: 1E5", 1e5),
        ("a: .5", 0.5),
        ("a: -2.e3", -2000.0),
        ("a: 12", 12),
        ("a: '1e-4'", "1e-4"),
        ("a: e4", "e4"),
        ("a: 1.2.3", "1.2.3"),
        ("a: yes", True),
        ("a: [1, 2]", [1, 2]),
        ("a:", None),
    ],
)
def test_yaml_numbers(text: str, value: Any) -> None:
    read = parse_yaml(text, "here")["a"]
    assert read == value and type(read) is type(value)


def test_yaml_mistakes_name_file_and_line() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.yaml line 2: not readable as YAML"):
        parse_yaml("a: 1\nb: ]\n", "recipe.yaml")


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(ConfigError):
        parse_yaml("a: !!python/object/apply:os.getcwd []", "recipe.yaml")


@attrs.frozen(kw_only=True)
class Choice:
    """One that is made by its name."""

    use: Literal["none", "far"] = "far"
    side: int = 4


@attrs.frozen(kw_only=True)
class Choices:
    """One, several, and one that text may stand for."""

    one: Choice | None = None
    several: tuple[Choice, ...] = ()
    text: Choice | str = ""


def test_a_bare_name_is_short_for_a_choice() -> None:
    made = structure({"one": "none", "several": ["far", {"use": "none"}], "text": "none"}, Choices)
    assert made == Choices(one=Choice(use="none"), several=(Choice(), Choice(use="none")), text="none")
    assert unstructure(made)["one"] == {"use": "none", "side": 4}
    assert structure({"one": None}, Choices).one is None
    with pytest.raises(ConfigError, match=r"^one\.use: expected one of none, far, got 'fra'; did you mean 'far'"):
        structure({"one": "fra"}, Choices)
    with pytest.raises(ConfigError, match="one: expected a mapping of settings, got 3"):
        structure({"one": 3}, Choices)
    assert override({"denoiser": {"use": "x", "one": "far"}}, "denoiser.one.side=2")["denoiser"]["one"] == {
        "use": "far", "side": 2
    }  # fmt: skip
    assert override({"conditioners": [{"use": "x", "one": "far"}]}, "conditioners.x.one.side=2") == {
        "conditioners": [{"use": "x", "one": {"use": "far", "side": 2}}]
    }


PARTS = ("first_stage", "denoiser", "conditioners")


def override(plain: dict[str, Any], *overrides: str) -> dict[str, Any]:
    apply_overrides(plain, overrides, PARTS)
    return plain


def test_overrides() -> None:
    assert override({}, "trainer.steps=1000") == {"trainer": {"steps": 1000}}
    assert override({}, "image_size=[32, 48]", "seed=3") == {"image_size": [32, 48], "seed": 3}
    assert override({"trainer": {"lr": 1}}, "trainer.lr=3e-4") == {"trainer": {"lr": 3e-4}}
    assert override({"first_stage": "vq_f4"}, "first_stage.channels=32") == {
        "first_stage": {"use": "vq_f4", "channels": 32}
    }
    assert override({}, "name=a=b") == {"name": "a=b"}
    assert override({"guidance": "cfg"}, "guidance=none") == {"guidance": "none"}


def test_members_of_a_list_go_by_number_or_name() -> None:
    plain = {"conditioners": ["text", {"use": "bbox_layout", "name": "boxes"}]}
    override(plain, "conditioners.text.dropout=0.2", "conditioners.boxes.objects=4", "conditioners.1.dropout=0.1")
    assert plain["conditioners"] == [
        {"use": "text", "dropout": 0.2},
        {"use": "bbox_layout", "name": "boxes", "objects": 4, "dropout": 0.1},
    ]


@pytest.mark.parametrize(
    ("plain", "text", "words"),
    [
        ({}, "steps", ("'steps'", "KEY=VALUE")),
        ({}, "=3", ("'=3'", "KEY=VALUE")),
        ({}, "a..b=3", ("KEY=VALUE",)),
        ({"seed": 3}, "seed.x=1", ("seed.x", "3", "no settings")),
        ({"conditioners": ["text"]}, "conditioners.txet.dropout=1", ("txet", "did you mean 'text'?")),
        ({"conditioners": ["text"]}, "conditioners.5.dropout=1", ("no member '5'", "text")),
        ({}, "a=[1", ("'a=[1'", "YAML")),
    ],
)
def test_overrides_that_do_not_read(plain: dict[str, Any], text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        override(plain, text)
    for word in words:
        assert word in str(caught.value)


def test_all_override_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        override({"seed": 3}, "steps", "seed.x=1", "trainer.steps=5")
    assert len(caught.value.problems) == 2


def test_field_table() -> None:
    rows = {row[0]: row[1:] for row in field_table(Outer)}
    assert rows["scale"] == ("float", "1.0", "how much")
    assert rows["channel_mult"][:2] == ("tuple[int, ...]", "[1, 2]")
    assert rows["seed"][:2] == ("int | None", "None")
    assert rows["read"][1] == "{}"
    assert rows["inner"][0] == "Inner" and rows["inner.rate"][:2] == ("float", "0.1")
    assert rows["many"][0] == "tuple[Inner, ...]" and "many.rate" not in rows


def test_a_key_that_comes_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"r\.yaml line 2: not readable as YAML \(the key 'image_size' comes twice\)"):
        parse_yaml("image_size: 32\nimage_size: 64\n", "r.yaml")


def test_marks_of_fields_and_their_former_names() -> None:
    @attrs.frozen
    class Section:
        plain: int = field(1, "a number")
        free: int = field(1, "a number", changes_training=False)
        former_free: int = field(1, "a number", same=True)
        added: int = field(2, "a number", since="0.2")
        former_added: int = field(3, "a number", later=True)

    assert same_keys(Section) == {"free", "former_free"}
    assert later_defaults(Section) == {"added": 2, "former_added": 3}
    with pytest.raises(TypeError, match="no mark named sinse"):
        field(1, "a number", sinse="0.2")  # type: ignore[call-arg]
