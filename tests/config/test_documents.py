"""YAML and JSON from anybody: plain values or one line, soon, whatever they hold; values in messages stay short."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ldm_core.config.documents import DEEPEST, parse_json, parse_yaml
from ldm_core.errors import CheckpointError, ConfigError, DataError, clean, clean_lines, quoted

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {k: 1, l: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], x{n}: 1}}\n" for n in range(1, 12)
)
MANY_MERGES = "\n".join(
    f"a{n}: &a{n} {{{', '.join(f'k{n}_{i}: 0' for i in range(40))}{f', <<: *a{n - 1}' if n else ''}}}"
    for n in range(150)
)  # every key another one, so that no parser drops any: 150 mappings, 453,000 keys

BAD_YAML: dict[str, tuple[Any, ...]] = {
    "month 13": ("a: 1\nb: 2024-13-45", "line 2", "day"),
    "hour 25": ("b: 2024-01-01 25:00:00", "line 1", "day"),
    "!!int": ("a: !!int x", "line 1", "!!int"),
    "!!float": ("a: [1,\n !!float y]", "line 2", "!!float"),
    "!!bool": ("a: !!bool z", "line 1", "!!bool"),
    "!!timestamp": ("a: !!timestamp q", "line 1", "day"),
    "no int": ("!!int", "line 1", "!!int"),
    "5,000 digits": ("a: " + "9" * 5000, "line 1", "5,000 characters"),
    "hex": ("a: 0x" + "f" * 5000, "line 1", "characters"),
    "binary": ("a: 0b" + "1" * 5000, "line 1", "characters"),
    "base 60": ("a: " + ":".join(["59"] * 3000), "line 1", "characters"),
    "base 60 float": ("a: !!float 1:x", "line 1", "!!float"),
    "a list in itself": ("a: &a [*a]", "line 1", "within"),
    "a mapping in itself": ("a: &a {b: {c: *a}}", "line 1", "within"),
    "merged into itself": ("a: &a {<<: *a, b: 1}", "line 1", "within"),
    "laughs": (LAUGHS, "line 7", "more than"),
    "merges": (MERGES, "line", "more than"),
    "distinct merges": (MANY_MERGES, "line", "more than"),
    "deep lists": ("[" * 5000, "line 1", "nested too deeply"),
    "deep lines": ("- " * 5000 + "x", "line 1", "nested too deeply"),
    "deep mappings": ("{a: " * 5000, "line 1", "nested too deeply"),
    "many values": ("{" + f"a: &a [{'0, ' * 999}], b: [{'*a, ' * 200}]" + "}", "line 1", "more than"),
    "twice": ("a: 1\na: 2", "line 2", "'a' comes twice"),
    "twice in another spelling": ("1: a\n0x1: b", "line 2", "comes twice"),
    "twice as text": ("1: a\n'1': b", "line 2", "comes twice"),
    "object": ("a: !!python/object/apply:os.getcwd []", "line 1", "not read"),
    "bytes": ("a: !!binary aGVsbG8=", "line 1", "not read"),
    "set": ("a: !!set {x, y}", "line 1", "not read"),
    "pairs": ("a: !!omap [a: 1]", "line 1", "not read"),
    "a list as key": ("? [1]\n: 2", "line 1", "key"),
    "escape": ("a: 1\nb: \x1b[31m", "line 2", "U+001B"),
    "NUL": ("a: \0", "line 1", "U+0000"),
    "half a pair": ("a: \ud83d", "line 1", "U+D83D"),
    "half a pair, escaped": ('a: "\\ud83d"', "r.yaml", "half of a surrogate pair"),
    "half a pair in a key": ('"\\uDC00": 1', "r.yaml", "half of a surrogate pair"),
    "no alias": ("a: *b", "line 1", "undefined"),
    "a long name": ("a: *" + "b" * 10_000, "line 1", "undefined"),
    "bytes that are no text": (b"a: 1\nb: \xff", "line 2", "0xff"),
    "UTF-16": ("a: 1".encode("utf-16"), "r.yaml", "UTF-16"),
    "two documents": ("a: 1\n---\nb: 2", "line 2", "another document"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_that_does_not_read(name: str) -> None:
    text, *words = BAD_YAML[name]
    began = time.process_time()
    with pytest.raises(DataError) as caught:
        parse_yaml(text, "r.yaml", DataError)
    assert time.process_time() - began < 8
    said = str(caught.value)
    assert "\n" not in said and said.isprintable() and len(said) < 500 and said.startswith("r.yaml")
    assert all(word in said for word in words), said


def test_yaml_that_reads() -> None:
    assert parse_yaml("a: 2024-01-31\nb: 1e-4\nc: .inf\nd: '1'\ne: 0x10\nf:", "") == {
        "a": "2024-01-31",
        "b": 1e-4,
        "c": float("inf"),
        "d": "1",
        "e": 16,
        "f": None,
    }
    assert parse_yaml("[" * DEEPEST + "]" * DEEPEST, "") is not None
    assert parse_yaml("\ufeffa: é".encode(), "") == {"a": "é"}
    assert parse_yaml("", "") is None


def test_aliases_of_a_recipe_are_copies_and_those_from_elsewhere_are_refused() -> None:
    text = "a: &a {x: [1]}\nb: *a\nc: {<<: *a, y: 2}\n"
    read = parse_yaml(text, "r.yaml")
    assert read == {"a": {"x": [1]}, "b": {"x": [1]}, "c": {"x": [1], "y": 2}}
    read["a"]["x"].append(2)
    assert read["b"] == {"x": [1]} and read["c"]["x"] == [1]
    with pytest.raises(CheckpointError, match=r"line 2: .*aliases"):
        parse_yaml(text, "r.yaml", CheckpointError, aliases=False)
    assert parse_yaml("a: &a 1\nb: 2", "", aliases=False) == {"a": 1, "b": 2}  # a name alone does no harm


BAD_JSON: dict[str, tuple[Any, ...]] = {
    "deep": ("[" * 100_000, "nested too deeply"),
    "one level too many": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested too deeply"),
    "deep mappings": ('{"a":' * 2000 + "1" + "}" * 2000, "nested too deeply"),
    "digits": ('{"a": ' + "9" * 5000 + "}", "5,000 digits"),
    "digits of a float": ("1." + "9" * 5000, "characters"),
    "twice": ('{"a": 1, "b": 2, "a": 3}', "'a' comes twice"),
    "twice, with a line end": ('{"a\\nb": 1, "a\\nb": 3}', r"'a\nb' comes twice"),
    "half a pair": ('["\\ud800"]', "half of a surrogate pair"),
    "half a pair in a key": ('{"\\uDFFF": 1}', "half of a surrogate pair"),
    "cut": ('{"a":\n\n[1,', "line 3"),
    "nothing": ("", "Expecting value"),
    "bytes": (b'{"a": "\xe9"}', "0xe9"),
    "UTF-16": ("{}".encode("utf-16"), "UTF-16"),
    "control": ('["\x1b"]', "control character"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_does_not_read(name: str) -> None:
    text, word = BAD_JSON[name]
    with pytest.raises(CheckpointError) as caught:
        parse_json(text, "c.json", CheckpointError)
    said = str(caught.value)
    assert "\n" not in said and said.isprintable() and len(said) < 500 and word in said and said.startswith("c.json")


def test_json_that_reads() -> None:
    value: Any
    for value in ({"a": [1, 2.5, None, True, "é \U0001f600"]}, [{}] * 200, {"[" * 100: "{" * 100}):
        assert parse_json(json.dumps(value), "") == value
    assert parse_json(b"\xef\xbb\xbf[1]", "") == parse_json("\ufeff[1]", "") == [1]
    with pytest.raises(ConfigError, match="more values"):
        parse_json(json.dumps([0] * 1001), "", most=1000)


class _Rude:
    def __repr__(self) -> str:
        raise ValueError("no")


def _itself() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


def _laughs() -> list[Any]:
    value: list[Any] = ["x"]
    for _ in range(30):
        value = [value] * 9
    return value


SHOWN: tuple[tuple[Any, str], ...] = (
    ("a\x1b[31m\n", r"'a\x1b[31m\n'"),
    ("\ud800", r"'\ud800'"),
    ("x" * 10**6, "'xxx"),
    (10**5000, "a number of 5001 digits"),
    (_itself(), "[1, [1, [1, [1, [...]]]]]"),
    (_laughs(), "[[[["),
    (_Rude(), "a value of type _Rude"),
    ({"k" * 1000: {"\u202e": b"\0" * 1000}}, "{'kkk"),
    ((1,), "(1,)"),
    ({"a": [1, (2.5, None)], 3: True}, "{'a': [1, (2.5, None)], 3: True}"),
    ("é猫", "'é猫'"),
)


@pytest.mark.parametrize(("value", "begins"), SHOWN, ids=range(len(SHOWN)))
def test_values_in_messages_are_short_and_printable(value: Any, begins: str) -> None:
    for limit in (20, 80, 200):
        said = quoted(value, limit)
        assert len(said) <= limit and said.isprintable() and said.startswith(begins[:8])
    assert quoted(value, 80) == begins or quoted(value, 80).endswith("...")


def test_text_for_a_terminal() -> None:
    assert clean("a\nb\x1b[0m\x9b\x7f \ud800\u2028é猫\u202e") == r"a\nb\x1b[0m\x9b\x7f \ud800\u2028é猫\u202e"
    assert clean("👩\u200d🔬") == "👩\u200d🔬"
    cut = clean("a" * 500 + "z", 100)
    assert len(cut) == 100 and cut.startswith("aaa") and cut.endswith("z") and "…" in cut
    assert clean_lines("one\ntwo \x1b]0;x\x07\r\n" + "d" * 10**6).splitlines()[:2] == ["one", r"two \x1b]0;x\x07"]
    assert len(clean_lines("d" * 10**6 + " " + "e " * 10**6)) <= 2000
