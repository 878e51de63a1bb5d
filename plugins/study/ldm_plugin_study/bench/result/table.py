"""A measurement as lines for a reader. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ldm_core.cli.output import table
from ldm_plugin_study.bench.result.choice import COMPONENTS
from ldm_plugin_study.bench.result.document import Document, Machine, Row


def lines(document: Document) -> list[str]:
    """The machine, the recipe, the peak, and a row for each component."""
    machine, settings = document.machine, document.settings
    size = "x".join(str(n) for n in document.recipe.get("image_size", []))
    peaks = ", ".join(f"{p.precision} {amount(p.rate)}FLOP/s (products of {p.size})" for p in document.peaks)
    images, rounds = counted(settings.batch, "image"), counted(settings.rounds, "round")
    head = [
        ("machine", machine_in_words(machine)),
        ("software", f"torch {document.software.torch}, {document.software.libraries}, {document.software.system}"),
        ("measured", f"{images} of {size} a call, {rounds}, medians of {settings.clock} time"),
        ("peak", peaks or "not measured"),
        *([("memory", document.memory_by)] if document.memory_by else []),
    ]
    rows: list[tuple[str, ...]] = [
        ("COMPONENT", "", "TIME", "HALF OF THE ROUNDS", "RATE", "FLOPS", "FLOP/S", "OF PEAK", "MEMORY", "WEIGHTS")
    ]
    rows += [_cells(document, row) for row in document.rows]
    meanings = [(name, COMPONENTS[name]) for name in dict.fromkeys(r.component for r in document.rows)]
    return [
        *table(head),
        "",
        *aligned(rows),
        "",
        *_kinds(document),
        *table(meanings),
        *(f"note: {note}" for note in document.notes),
    ]


def _kinds(document: Document) -> list[str]:
    """A row for each component of the shares of its kinds of operation, those of any row in columns."""
    names = list(dict.fromkeys(name for row in document.rows for name in row.kinds))
    names.sort(key=lambda name: -sum(row.kinds.get(name, 0.0) for row in document.rows))
    if not names:
        return []
    rows = [("TIME BY KIND", "", *(name.upper() for name in names))]
    for row in filter(lambda row: row.kinds, document.rows):
        shares = (f"{100 * row.kinds[name]:.1f} %" if name in row.kinds else "" for name in names)
        rows.append((row.component, row.precision, *shares))
    return [*aligned(rows), ""]


def machine_in_words(machine: Machine) -> str:
    """One line of a machine."""
    own = f"{machine.processor}, {counted(machine.cores, 'core')}, {counted(machine.threads, 'thread')}"
    own += f", {amount(machine.memory)}B"
    own += f", {' '.join(machine.instructions[-4:])}" if machine.instructions else ""
    gpu = f"{machine.device}, {amount(machine.device_memory)}B; " if machine.device_memory else ""
    return gpu + own


def counted(number: int, noun: str) -> str:
    """A number of things: 1 core, 2 cores."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cells(document: Document, row: Row) -> tuple[str, ...]:
    low, high = row.quartiles
    share = document.share(row)
    return (
        row.component,
        row.precision,
        duration(row.median),
        f"{duration(low)} to {duration(high)}",
        rate(row),
        amount(row.flops) if row.flops else "",
        amount(row.flop_rate) if row.flops else "",
        f"{100 * share:.1f} %" if share is not None else "",
        f"{amount(row.memory)}B" if row.memory is not None else "",
        amount(row.parameters) if row.parameters else "",
    )


def rate(row: Row) -> str:
    """Images a second, or megabytes."""
    found = row.amount / row.median
    return f"{found / 1e6:.0f} MB/s" if row.component == "storage" else f"{found:.4g} images/s"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows under each other, words to the left and numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(_placed(row, widths)).rstrip() for row in rows]


def _placed(row: tuple[str, ...], widths: Sequence[int]) -> Iterable[str]:
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if i < 2 else cell.rjust(width)


def duration(seconds: float) -> str:
    """Seconds in a fitting unit, three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def amount(number: float) -> str:
    """A number with a prefix of thousands: 1.23 G."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if float(f"{number:.3g}") >= size:  # as it is shown: 999,900 is 1 M
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "
