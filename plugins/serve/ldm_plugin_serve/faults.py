"""A refused request: the status of its answer, and the mistake in words. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ldm_core.errors import ConfigError, DataError, LDMError, NotFiniteError, clean

_LONGEST = 600  # characters of a message
_MOST = 40  # allowed values
_INNER = re.compile(r" of example \d+")  # words of a batch, in the library's messages
FIELDS = {
    "inputs": {"box_labels": "boxes"},
    "settings": {"time_grid": "grid", "sample.steps": "steps", "image_size": "size", "time grid": "grid"},
}
"""A field's names in the library's messages, where they are not its own."""
_SETTINGS = ("sampler", "grid", "steps", "guidance", "negative", "size", "strength")


class Fault(Exception):
    """A mistake of the client's, or a limit; `status` is the answer's."""

    def __init__(
        self, message: str, where: str = "", *, status: int = 422, allowed: Iterable[Any] | None = None, fix: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.where, self.fix = status, message, where, fix
        self.allowed = None if allowed is None else list(allowed)[:_MOST]

    def document(self) -> dict[str, Any]:
        """The body of its answer."""
        said: dict[str, Any] = {"message": clean(self.message, _LONGEST), "where": clean(self.where, 200)}
        if self.allowed is not None:
            said["allowed"] = self.allowed
        if self.fix:
            said["fix"] = clean(self.fix, _LONGEST)
        return {"error": said}


def of_error(error: LDMError, where: str, status: int = 422, keys: Iterable[str] = ()) -> Fault:
    """The fault of a mistake found by the library; its first problems. `where` is refined to the field that they are
    about: of ``inputs``, one of `keys`; of ``settings``, any."""
    lines = error.problems if isinstance(error, ConfigError) else str(error).splitlines()
    said = _INNER.sub("", "; ".join(lines[:3])) or type(error).__name__
    names = {name: name for name in (_SETTINGS if where == "settings" else keys)} | FIELDS.get(where, {})
    field = next((names[word] for word in sorted(names, key=len, reverse=True) if _about(said, word)), "")
    return Fault(said, f"{where}.{field}" if field else where, status=status)


def _about(said: str, word: str) -> bool:
    """True if a message begins with a word, or has it in quotes."""
    return f"'{word}'" in said or bool(re.match(rf"(?:inputs\W+)?{re.escape(word)}\b", said))


def of_exception(error: BaseException, inputs: Mapping[str, object]) -> Fault:
    """The fault of a failed sampling of `inputs`."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, NotFiniteError):
        return Fault("the model made values of this request that are not finite", "settings")
    if isinstance(error, LDMError):
        return of_error(error, "inputs" if isinstance(error, DataError) else "settings", keys=inputs)
    return Fault("the server failed at this request; its log says more", status=500)
