"""JSON and YAML that came with weights, as plain values: no tags, no classes, no aliases, of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_core.config.documents import parse_json, parse_yaml
from ldm_core.errors import CheckpointError, clean

_JSON, _YAML = 16 << 20, 1 << 20
_MOST_YAML_VALUES = 50_000


def limit(name: str) -> int:
    """Bytes that a config of this name may have; YAML is slow to read."""
    return _JSON if name.lower().endswith(".json") else _YAML


def parse(data: bytes, name: str, where: str) -> Mapping[str, Any]:
    """The mapping in the file; names of classes in it are texts. CheckpointError if there is none."""
    if name.lower().endswith(".json"):
        value = parse_json(data, where, CheckpointError)
    else:
        value = _text_keys(parse_yaml(data, where, CheckpointError, aliases=False, most=_MOST_YAML_VALUES))
    if not isinstance(value, dict):
        raise CheckpointError(f"{clean(where)}: holds no mapping")
    return value


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _text_keys(each) for key, each in value.items()}
    return [_text_keys(each) for each in value] if isinstance(value, list) else value
