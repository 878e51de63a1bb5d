"""Few-step models by distillation. From Python: :func:`distil` and :func:`student`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_plugin_distill.recipe import distil as distil
    from ldm_plugin_distill.recipe import student as student
else:
    __all__ = ["distil", "student"]

    def __getattr__(name: str) -> Any:  # a listing of plugins imports this package, and neither of them
        if name not in __all__:
            raise AttributeError(f"module 'ldm_plugin_distill' has no attribute '{name}'")
        from ldm_plugin_distill import recipe

        return vars(recipe)[name]
