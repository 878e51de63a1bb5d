"""One evaluation: its sets of pictures, their rows, its figures, its record."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import unstructure
from ldm_core.contracts import Pictures
from ldm_core.errors import ConfigError
from ldm_core.training.engine.world import World
from ldm_core.weights import cache
from ldm_plugin_metrics.evaluation import protocol, statistics
from ldm_plugin_metrics.evaluation.asked import Asked, asked, divided
from ldm_plugin_metrics.evaluation.figures import Side, figure, require_sums, summed
from ldm_plugin_metrics.evaluation.measuring import Tell, Work, fill
from ldm_plugin_metrics.evaluation.request import SETTINGS, Request
from ldm_plugin_metrics.evaluation.sets import Sets
from ldm_plugin_metrics.evaluation.store import RowStore, key_of


def evaluate(
    request: Request, catalog: Catalog, world: World, out: str, tell: Tell = lambda *_: None
) -> dict[str, Any] | None:
    """Evaluate, and write the record to the folder `out`, beside the rows; None on processes but the first.

    Every process calls it, with one request and a folder for all of them. Raises LDMErrors for mistakes before
    anything is sampled, as far as they can be known then.
    """
    settings = divided(request.settings, request.metrics, SETTINGS)
    sets = Sets(request, settings, catalog, world, out)
    metrics = asked(request.metrics, settings[""], sets.site, catalog, world.device)
    sets.choose(metrics)
    _refuse_few(metrics, sets)
    saved = _saved(metrics) if request.save_statistics else None
    works = _works(metrics, sets)
    for work in works.values():
        work.check()
    _look_at_statistics(metrics, sets)
    for work in works.values():
        fill(work, world, tell)
    world.barrier()
    if not world.main:
        return None
    if saved is not None:
        sums = summed(saved, works[sets.own_name(saved)].stores[saved.source])
        statistics.write_statistics(request.save_statistics, sums, saved.source)
    more = {
        "place": storage.shown(request.place),
        "model": sets.model_key(),
        "bootstrap": request.bootstrap,
        "hardware": protocol.hardware(world.device),
    }
    rows = [_row(each, sets, works) for each in metrics if _has_sides(each, sets)]
    found = protocol.document({name: each.about() for name, each in sets.chosen.items()} | _told(sets), rows, more)
    protocol.write(out, found)
    return found


def _refuse_few(metrics: Sequence[Asked], sets: Sets) -> None:
    """ConfigError for each metric without enough pictures, before any is made."""
    problems = []
    for each in metrics:
        for name in sets.names(each):
            if len(sets.chosen[name]) < each.least:
                fix = f"give --images {each.least}" if name == "samples" else f"give at least {each.least:,} of these"
                if "allow_few" in unstructure(each.config):
                    fix += f", or {each.name}.allow_few=true for a biased figure"
                told = f"{each.name}: needs {each.least:,} pictures on either side"
                problems.append(f"{told}, and there are {len(sets.chosen[name]):,} ({name}); {fix}")
        if sets.stats is not None and each.config.against == "set" and 0 < sets.stats.count < each.least:
            problems.append(
                f"{each.name}: needs {each.least:,} pictures on either side, and the statistics are of "
                f"{sets.stats.count:,}; make them of more, or give pictures to --against"
            )
    if problems:
        raise ConfigError(problems)


def _look_at_statistics(metrics: Sequence[Asked], sets: Sets) -> None:
    """ConfigError if the file of statistics is not of a metric's features, seen on two grey pictures."""
    if sets.stats is None:
        return
    where, side = storage.shown(sets.stats.url), sets.stats.statistics()
    for each in metrics:
        if each.config.against != "set":
            continue
        if sets.stats.source and sets.stats.source != each.source:
            raise ConfigError(
                f"{where}: statistics of '{sets.stats.source}', and {each.name} is '{each.source}'; make them anew "
                "with --save-statistics, or give pictures"
            )
        if not sets.stats.source:
            warnings.warn(
                f"{where} does not say which network its features are of; {each.name} takes it for its own "
                f"({each.source})",
                UserWarning,
                stacklevel=2,
            )
        own = sets.chosen[sets.own_name(each)]
        grey = torch.full((2, own.channels, *own.size), 127, dtype=torch.uint8, device=sets.world.device)
        sums = each.answers.sums
        like = {} if sums is None else sums(each.measure(Pictures(grey, (0, 1))))
        require_sums(each, side, like, where)


def _works(metrics: Sequence[Asked], sets: Sets) -> dict[str, Work]:
    """The stores of each set's rows, by source: those of data in the cache, those of samples in the folder."""
    needed: dict[str, dict[str, Asked]] = {}
    for each in metrics:
        for name in sets.names(each):
            needed.setdefault(name, {}).setdefault(each.source, each)
    kept = sets.request.cache or storage.join(storage.parent(cache.folder()), "evaluation")
    works = {}
    for name, by_source in needed.items():
        pictures = sets.chosen[name]
        root = kept if name in protocol.OTHERS else storage.join(sets.out, "rows")
        stores = {}
        for source, each in by_source.items():
            decisive = pictures.key() | ({"model": sets.model_key()} if each.config.needs_pipeline else {})
            stores[source] = RowStore(storage.join(root, key_of(decisive, source)), len(pictures))
        pipeline = None if sets.model is None else sets.model.measured
        works[name] = Work(pictures, stores, by_source, pipeline)
    return dict(sorted(works.items(), key=lambda each: each[0] not in protocol.OTHERS))


def _has_sides(each: Asked, sets: Sets) -> bool:
    name = sets.against_name(each)
    return not name or name in sets.chosen or sets.stats is not None


def _row(each: Asked, sets: Sets, works: Mapping[str, Work]) -> dict[str, Any]:
    own_name, name = sets.own_name(each), sets.against_name(each)
    against: Side | None = None
    count: int | None = None
    if name == "reference" and sets.stats is not None and name not in sets.chosen:
        against, count = sets.stats.statistics(), sets.stats.count or None
    elif name:
        against, count = works[name].stores[each.source], len(sets.chosen[name])
    found = figure(each, works[own_name].stores[each.source], against, bootstrap=sets.request.bootstrap)
    return protocol.row(each, found, own_name, (len(sets.chosen[own_name]), count), name)


def _saved(metrics: Sequence[Asked]) -> Asked:
    """The one metric with the sums of a file of statistics; ConfigError if there is none, or several."""
    fitting = {e.source: e for e in metrics if e.answers.sums is not None and e.config.against == "set"}
    if len(fitting) != 1:
        raise ConfigError(
            f"--save-statistics: a file is of one network, and these metrics have {len(fitting)} with mean and "
            f"covariance; {'name one of them in' if fitting else 'add fd or fid to'} --metrics"
        )
    (found,) = fitting.values()
    return found


def _told(sets: Sets) -> dict[str, Mapping[str, Any]]:
    if sets.stats is None:
        return {}
    told = {"what": storage.shown(sets.stats.url), "pictures": sets.stats.count or None}
    return {"reference": {**told, "source": sets.stats.source, "statistics": True}}
