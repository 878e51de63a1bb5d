"""The door between a user's terminal and the program: what comes in as bytes, what goes out as characters."""

from __future__ import annotations

import ast
import io
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from ldm_core import cli
from ldm_core.cli import output
from ldm_core.cli.declaration import command
from ldm_core.cli.inputs import read_inputs, read_prompts, read_seeds, read_size
from ldm_core.cli.options import Given, places_and_settings
from ldm_core.cli.progress import Progress
from ldm_core.cli.samples.output import file_name
from ldm_core.config.overrides import apply_overrides
from ldm_core.config.structure import structure
from ldm_core.data.class_names import spread
from ldm_core.errors import ConfigError, DataError
from ldm_core.recipe.settings import SampleSettings
from ldm_core.sampling.inputs import negative_rows, rows_of
from ldm_core.weights.open import Wanted

EVIL = "a\x1b]0;title\x07\x1b[2J\x9b31m\r\x7f\u202eb"


def bare(text: str) -> bool:
    """Whether `text` has no control character but line ends."""
    return all(line.isprintable() for line in text.split("\n"))


# ------------------------------------------------------------------------------------------------------ what comes in


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "run", "--prompt", "caf\udce9"],
        ["sample", "run", "--prompt", "fine", "--negative", "\udcff\udcfe"],
        ["--input", "caption=\udce9", "--out", "here"],
        ["--out", "here", "sample.prompts=[\udce9]"],
        ["--data", "\udce4rger", "--out", "here"],
        ["check", "--class", "\ud83d"],
        ["reconstruct", "run", "\udcff.png"],
        ["convert", "a\udc80", "b", "--to", "ldm"],
    ],
)
def test_arguments_that_are_no_utf8(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "is not UTF-8" in said and said.count("\n") == 1 and bare(said)
    assert not list(tmp_path.iterdir())


def test_a_narrow_locale_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.in_unicode(["a cat 猫", "--images", "2"]) == ["a cat 猫", "--images", "2"]
    typed = "a cat 猫".encode().decode("ascii", "surrogateescape")
    for encoding in ("ascii", "iso8859-1"):
        monkeypatch.setattr(sys, "getfilesystemencoding", lambda encoding=encoding: encoding)
        assert cli.in_unicode(["a cat", "--images", "2"]) == ["a cat", "--images", "2"]
        for text in (typed, "a cat 猫"):
            with pytest.raises(ConfigError, match=rf"locale \({encoding}\).*PYTHONUTF8=1"):
                cli.in_unicode(["sample", "run", "--prompt", text])
        assert file_name(3, 7, "a 猫 cat") == "0003-seed7-a-cat.png"


@pytest.mark.parametrize("text", ["\ud800", "caf\udce9", ["fine", "\udfff"]])
def test_texts_that_are_no_unicode_are_not_sampled(text: Any) -> None:
    recipe: Any = SimpleNamespace(sample=SimpleNamespace(images=1), conditioners=(), reads=("caption", "box_labels"))
    recipe.guidance = SimpleNamespace(config=SimpleNamespace(needs_null=True), use="cfg")
    with pytest.raises(DataError, match="is not Unicode"):
        rows_of(recipe, text, None, None)
    with pytest.raises(DataError, match="is not Unicode"):
        rows_of(recipe, None, {"box_labels": [text]}, None)
    with pytest.raises(DataError, match="is not Unicode"):
        rows_of(recipe, None, [{"caption": "fine"}, {"caption": text}], None)
    with pytest.raises(DataError, match=r"negative: .* is not Unicode"):
        negative_rows(recipe, [{}], text)
    prompts = text if isinstance(text, list) else [text]
    with pytest.raises(ConfigError, match=r"sample\.prompts\[\d\]: .* is not Unicode"):
        structure({"prompts": prompts}, SampleSettings, "sample")


def test_prompts_are_split_at_line_ends_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("one\u2028still one\r\n\r\ntwo\u0085still two\n  three\x0b\x0c\x1cstill three\u2029too  ".encode())
    assert read_prompts(str(path)) == [
        "one\u2028still one",
        "two\u0085still two",
        "three\x0b\x0c\x1cstill three\u2029too",
    ]


@pytest.mark.parametrize("digits", ["9" * 5000, "1.." + "9" * 5000, "9" * 5000 + "..3", "0x" + "f" * 5000])
def test_numbers_of_many_digits(digits: str) -> None:
    for read in (read_seeds, read_size):
        with pytest.raises(ConfigError) as caught:
            read(digits)
        assert len(str(caught.value)) < 250
    assert spread("class_label", [digits], ()) == [digits]  # a name, which will not be among the classes
    for key in ("image", "boxes", "embedding", "caption2"):
        try:
            read_inputs([f"{key}={digits}"])
        except ConfigError as error:
            assert len(str(error)) < 400


@pytest.mark.parametrize(
    "text", ["2024-13-45", "!!int x", "[" * 500, "&a [*a]", "!!timestamp q", "0x" + "f" * 9000, "{a: 1, a: 2}"]
)
def test_values_of_the_command_line_go_through_the_same_door(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_inputs([f"box_labels={text}"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(ConfigError) as caught:
        apply_overrides({}, [f"image_size={text}"], ())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    (tmp_path / "v.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"v\.yaml line 1"):
        read_inputs([f"box_labels=@{tmp_path}/v.yaml"])


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, '{"boxes": ' + "9" * 5000 + "}", '{"boxes": [], "boxes": []}', '{"boxes": [], "labels": ["\\ud800"]}'],
)
def test_boxes_go_through_the_same_door(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--boxes: "):
        read_inputs(boxes=text)
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(ConfigError, match=r"b\.json: "):
        read_inputs(boxes=str(tmp_path / "b.json"))


# --------------------------------------------------------------------------------------------------------- empty values


@pytest.mark.parametrize(
    "key", ["conditioners", "denoiser", "first_stage", "seed", "scale", "trainer", "dataset", "image_size", "observers"]
)
def test_an_empty_setting_is_a_mistake(key: str) -> None:
    for given in (f"{key}=", f"{key}=  "):
        with pytest.raises(ConfigError, match=rf"'{key}= *': empty"):
            Wanted.of([given])
        with pytest.raises(ConfigError, match=rf"'{key}= *': empty"):
            apply_overrides({key: "x"}, [given], ())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("trainer.deepspeed." + "a." * 5000 + "b=1", "5003 names deep"),
        ("conditioners.²=1", "no member '²'"),
        ("conditioners." + "9" * 5000 + ".x=1", "no member '999"),
        ("conditioners.-1.x=1", "no member '-1'"),
        ("\x1b[2J" + "k" * 10**5, "expected KEY=VALUE"),
        ("a.b.=1", "expected KEY=VALUE"),
    ],
)
def test_keys_that_lead_nowhere(setting: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"conditioners": ["text"]}, [setting], ())
    said = str(caught.value)
    assert says in said and said.isprintable() and len(said) < 500


def test_an_empty_setting_where_a_text_stood_is_no_text() -> None:
    plain: dict[str, Any] = {
        "storage": {"profile": "me", "retries": 3},
        "conditioners": [{"use": "text", "hash": "ab"}],
    }
    apply_overrides(plain, ["storage.profile=", "storage.retries=", "conditioners.text.hash="], ())
    assert plain == {"storage": {"profile": "", "retries": None}, "conditioners": [{"use": "text", "hash": ""}]}


# --------------------------------------------------------------------------------------- names that look like settings


@pytest.mark.parametrize(
    ("places", "given", "there", "expected"),
    [
        (1, ["lr=1e-3"], ["lr=1e-3"], (["lr=1e-3"], [])),
        (1, ["lr=1e-3"], [], ([], ["lr=1e-3"])),
        (1, ["epoch=3.ckpt", "image_size=64"], ["epoch=3.ckpt"], (["epoch=3.ckpt"], ["image_size=64"])),
        (1, ["image_size=64", "run"], ["image_size=64", "run"], (["run"], ["image_size=64"])),
        (2, ["a=1", "b=2", "c=3"], ["a=1", "b=2", "c=3"], (["a=1", "b=2"], ["c=3"])),
        (2, ["a=1", "out", "c=3"], ["a=1", "c=3"], (["a=1", "out"], ["c=3"])),
        (1, ["x/lr=1"], [], (["x/lr=1"], [])),
    ],
)
def test_what_is_there_is_a_place(
    places: int, given: list[str], there: list[str], expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in there:
        (tmp_path / name).mkdir()

    @attrs.frozen(kw_only=True)
    class Options:
        given: Given = places_and_settings(places, "", "what is given")

    seen: list[Given] = []
    command(Options)(lambda options: seen.append(options.given)).main(given, standalone_mode=False)
    assert [(each.places, each.settings) for each in seen] == [expected]


def test_a_setting_that_may_have_been_meant_as_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", "lr=1e-4", "--prompt", "x"]) == 2
    assert "'lr=1e-4' is a setting" in capsys.readouterr().err


def test_lists_of_files_stay_whole_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/tmp/" + "folder/" * 500 + "0000.png"
    output.say(f"{long}\n{long}", longest=output.PATH)
    assert capsys.readouterr().out.splitlines() == [long, long]
    output.say(long)
    assert len(capsys.readouterr().out) < 250


# ------------------------------------------------------------------------------------------------------ what goes out


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.say(EVIL)
    output.say(f"  {EVIL}: {'x' * 10**5}\nnext", err=True, wrap=True)
    output.say("\n".join(output.table([("KEY", "WHAT"), (EVIL + "\n" + "k" * 10**5, "v" * 10**5), ("short", EVIL)])))
    with output.warnings_as_lines():
        warnings.warn_explicit(f"{EVIL} {'y' * 10**5}", UserWarning, "x.py", 1, module="ldm_core.x")
    progress = Progress(sys.stderr, terminal=False)
    progress.ldm_stage_start(EVIL, 3, 0)
    progress.ldm_message(EVIL, "warning")
    progress.ldm_images(EVIL, 3, EVIL, f"/tmp/{EVIL}{'z' * 10**5}.png")
    progress.ldm_stage_end(EVIL, "done")
    out, err = capsys.readouterr()
    assert bare(out) and bare(err) and len(out) < 8000 and len(err) < 8000
    assert "\\x1b[2J" in out and "\\x1b[2J" in err and "warning: a\\x1b" in err and "next" in err.split("\n")


def test_errors_are_bounded_and_bare() -> None:
    error = ConfigError([f"{EVIL}: unknown", "one\ntwo", "n" * 10**6, *(f"more {i}" for i in range(10**4))])
    lines = cli.error_lines(error)
    assert all(line.isprintable() and len(line) < 2100 for line in lines) and len(lines) < 60
    assert lines[1:3] == ["error: one", "       two"] and lines[-1] == "error: and 9963 more"
    with pytest.raises(ConfigError) as caught:
        structure({"steps": 1, "a\nerror: b\x1b": 2, "k" * 10**5: 3}, SampleSettings, "sample")
    for line in caught.value.problems:
        assert line.isprintable() and len(line) < 300


def test_a_usage_error_is_bare(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [EVIL],
        ["sample", f"--{EVIL}"],
        ["sample", "a", EVIL],
        ["convert", "a", "b", "--to", "x", "--dtype", EVIL],
    ):
        assert cli.main(arguments) == 2
        assert bare(capsys.readouterr().err)


def test_json_is_ascii_and_yaml_what_stdout_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"prompt": "猫 é", "path": "\udce9", EVIL: [1]}
    for encoding in ("latin-1", "ascii", "cp1252", "utf-8", "utf-16"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        output.print_json(value)
        sys.stdout.flush()
        text = raw.getvalue().decode(encoding)
        assert text.isascii() and json.loads(text) == value
    for encoding in ("latin-1", "ascii", "utf-8"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        output.print_yaml({"prompts": ["猫 é"]})
        cli._write_any_character()
        print("a note of 猫")
        sys.stdout.flush()
        text = raw.getvalue().decode(encoding)
        from ldm_core.config.documents import parse_yaml

        assert parse_yaml(text.splitlines()[0], "") == {"prompts": ["猫 é"]} and "a note of" in text


def test_long_lines_wrap_at_words() -> None:
    note = "  note: 'text' is not installed (pip install ldm-plugin-bert-text ldm-plugin-ddim); using --guidance none"
    lines = output.wrapped_at(f"short\n{note}\n\n{'x' * 90} end", 40).split("\n")
    assert lines[0] == "short" and "" in lines and "x" * 90 in [line.strip() for line in lines]
    assert all(len(line) <= 40 for line in lines if "x" * 90 not in line)
    words = " ".join(lines).split()
    assert words == f"short {note} {'x' * 90} end".split()
    assert lines[1].startswith("  note:") and lines[2].startswith("    ")
    assert output.wrapped_for(io.StringIO(), note) == note  # no terminal


def test_commands_speak_through_the_door_alone() -> None:
    """`say` cleans what it prints; `print` and `click.echo` do not."""
    root = Path(cli.__file__).parent
    own = {"output.py", "progress.py", "__init__.py"}
    found = [
        f"{path.name}:{node.lineno}"
        for path in sorted(root.rglob("*.py"))
        if path.name not in own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo", "sys.stdout.write")
    ]
    assert not found, found
