"""The presets of measured candidates: `best`, `balanced` and `fast`, each by a rule. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import attrs

from ldm_core.errors import ConfigError
from ldm_plugin_study.bench.result.table import duration
from ldm_plugin_study.study.quality import Figure
from ldm_plugin_study.tune.candidates import Candidate

NAMES = ("fast", "balanced", "best")


@attrs.frozen(kw_only=True)
class Tried:
    """A candidate with its figures, the deciding one first, of so many `images`. `ratios`: its time over the
    reference's, pair by pair; `unit`: the reference's seconds a picture."""

    candidate: Candidate
    figures: tuple[Figure, ...]
    images: int
    ratios: tuple[float, ...]
    unit: float

    @property
    def quality(self) -> float:
        """The deciding value."""
        return self.figures[0].value

    @property
    def time(self) -> float:
        """Seconds a picture."""
        return median(self.ratios) * self.unit

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest seconds a picture, of all pairs."""
        return min(self.ratios) * self.unit, max(self.ratios) * self.unit

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.candidate.name,
            "settings": self.candidate.plain(),
            "precision": self.candidate.precision,
            "images": self.images,
            "values": {f.name: {"value": f.value, "low": f.low, "high": f.high} for f in self.figures},
            "seconds": self.time,
            "seconds_span": list(self.span),
        }


@attrs.frozen(kw_only=True)
class Rule:
    """The bounds of the presets: `within`, the share of the best value to be lost by `fast`; `seconds` a picture, None
    = any."""

    within: float = 0.2
    seconds: float | None = None


def choose(tried: Sequence[Tried], rule: Rule) -> dict[str, Tried]:
    """The presets, among candidates of the last rung within the rule's seconds.

    `best` has the best value; `balanced` is the fastest with a value within the interval of the best, by bootstrap;
    `fast` is the fastest with a value within the rule's share of it, or within the interval if this is wider. Two of
    them may be one candidate. ConfigError if none is so fast.
    """
    higher = tried[0].figures[0].higher
    sign = -1.0 if higher else 1.0
    fitting = [t for t in tried if rule.seconds is None or t.time <= rule.seconds]
    if not fitting:
        raise too_slow(tried, rule)
    best = min(fitting, key=lambda t: (sign * t.quality, t.time))
    bound = best.figures[0].low if higher else best.figures[0].high
    interval = sign * (best.quality if bound is None else bound)
    loss = sign * best.quality + rule.within * abs(best.quality)

    def fastest(limit: float) -> Tried:
        return min((t for t in fitting if sign * t.quality <= limit), key=lambda t: (t.time, sign * t.quality))

    return {"fast": fastest(max(loss, interval)), "balanced": fastest(interval), "best": best}


def too_slow(tried: Sequence[Tried], rule: Rule) -> ConfigError:
    """The error for candidates without one of the wanted speed."""
    fastest = min(tried, key=lambda t: t.time)
    return ConfigError(
        f"`seconds`: none of {len(tried)} candidates makes a picture in {rule.seconds:g} s; the fastest takes "
        f"{duration(fastest.time)} ({fastest.candidate.label})"
    )


def rule_in_words(rule: Rule) -> str:
    """The rule of the presets for a reader."""
    limit = "" if rule.seconds is None else f", of those that take at most {rule.seconds:g} s a picture"
    return (
        f"best has the best value{limit}; balanced is the fastest within its interval, fast the fastest within "
        f"{100 * rule.within:g} % of it"
    )
