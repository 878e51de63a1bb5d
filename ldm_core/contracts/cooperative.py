"""The ``__init__`` that lets a Protocol stand before ``nn.Module`` among a class's bases."""

from __future__ import annotations

from typing import Any, Generic, Protocol


def cooperative_init(self: Any, *args: Any, **kwargs: Any) -> None:
    """Call the next ``__init__`` behind the protocols among the bases."""
    # A Protocol's own __init__ stops the chain, so that with the bases (Conditioner, nn.Module) a subclass's
    # super().__init__() would never reach nn.Module. Go on behind the protocols instead.
    bases = type(self).__mro__
    after = next(i for i, base in enumerate(bases) if base.__dict__.get("_is_protocol"))
    for base in bases[after:]:
        if base in (Protocol, Generic) or base.__dict__.get("_is_protocol"):
            continue
        if "__init__" in base.__dict__:
            base.__init__(self, *args, **kwargs)  # type: ignore[misc]
            return
