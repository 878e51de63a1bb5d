"""JSON and YAML that came with weights, as plain values: no tags, no classes, no cycles, of bounded size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ldm_core.config import parse_yaml
from ldm_core.errors import CheckpointError, LDMError

_JSON, _YAML = 16 << 20, 1 << 20
_MOST_VALUES = {True: 1_000_000, False: 50_000}  # of JSON, which a tokenizer's vocabulary may be; of YAML
_DEEPEST = 64


def limit(name: str) -> int:
    """Bytes that a config of this name may have; YAML is slow to read."""
    return _JSON if name.lower().endswith(".json") else _YAML


def parse(data: bytes, name: str, where: str) -> Mapping[str, Any]:
    """The mapping that the file holds; names of classes in it are texts. CheckpointError where it holds none."""
    try:
        text = data.decode("utf-8-sig")
        is_json = name.lower().endswith(".json")
        value = json.loads(text) if is_json else parse_yaml(text, where)
        plain = _plain(value, [_MOST_VALUES[is_json]], 0)
    except LDMError as error:
        raise CheckpointError(str(error)) from None
    except RecursionError:
        raise CheckpointError(f"{where}: is nested too deeply") from None
    except Exception as error:  # PyYAML lets out what its constructors raise, such as a month of 13
        raise CheckpointError(f"{where}: does not read ({str(error)[:120]})") from None
    if not isinstance(plain, dict):
        raise CheckpointError(f"{where}: holds no mapping")
    return plain


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """A copy without shared parts: a few lines of YAML can stand for more values than there are atoms."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("it holds more values than any config")
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        return {str(k): _plain(v, left, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v, left, depth + 1) for v in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
