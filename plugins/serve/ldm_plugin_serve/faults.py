"""A refused request: the status of its answer, and the mistake in words. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ldm_core.errors import ConfigError, LDMError, NotFiniteError, clean

_LONGEST = 600  # characters of a message
_MOST = 40  # allowed values


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


def of_error(error: LDMError, where: str, status: int = 422) -> Fault:
    """The fault of a mistake found by the library; its first problems."""
    lines = error.problems if isinstance(error, ConfigError) else str(error).splitlines()
    return Fault("; ".join(lines[:3]) or type(error).__name__, where, status=status)


def of_exception(error: BaseException) -> Fault:
    """The fault of a failed sampling."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, NotFiniteError):
        return Fault("the model made values of this request that are not finite", "settings")
    if isinstance(error, LDMError):
        return of_error(error, "settings")
    return Fault("the server failed at this request; its log says more", status=500)
