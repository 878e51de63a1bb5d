"""``ldm-run report``: a run, or the comparison of several, as one HTML file."""

from __future__ import annotations

import attrs

from ldm_core.cli import argument, command, installed, option
from ldm_core.cli.options import force_option, json_option

COMPARISON = "comparison.html"


@attrs.frozen(kw_only=True)
class ReportOptions:
    """The runs, and the file."""

    runs: tuple[str, ...] = argument("RUN...", "Folders or URLs of runs; several are compared.", completes="folder")
    out: str = option(
        "",
        "The file, by path or URL.",
        metavar="FILE.html",
        otherwise=f"report.html in the run; {COMPARISON} here, of several",
        completes="file",
    )
    evaluation: tuple[str, ...] = option(
        (), "Figures of `ldm-run evaluate`: its folder or evaluation.json; repeat.", metavar="PATH", completes="file"
    )
    force: bool = force_option("Overwrite the file, though it is no report.", "General")
    json: bool = json_option()


@command(
    ReportOptions,
    examples=[
        "ldm-run report runs/demo",
        "ldm-run report runs/a runs/b --out both.html",
        "ldm-run report s3://bucket/runs/mine --out mine.html",
    ],
)
def report(options: ReportOptions) -> int:
    """Write one self-contained HTML file on a run: recipe, curves, samples, previews, reconstructions, figures, times
    and warnings. Of several runs: the differences of their recipes, curves in one plot, same inputs side by
    side. It reads the folder alone, of a run in training too; a broken or half-written one gives all it has."""
    from ldm_core import storage
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_core.errors import ConfigError
    from ldm_plugin_report.document import target, write
    from ldm_plugin_report.page.page import page
    from ldm_plugin_report.run import read

    with reporting(options.json) as document, warnings_as_lines():
        if options.evaluation and len(options.runs) > 1:
            raise ConfigError(
                "--evaluation belongs to the report of one run; put evaluation.json into the runs' folders"
            )
        out = target(options.runs, options.out, force=options.force)
        found = [read(url, evaluations=options.evaluation) for url in options.runs]
        size = write(out, page(found, catalog=installed()))
        lacks = {facts.name: list(facts.missing) for facts in found}
        document.update(status="done", file=storage.shown(out), bytes=size, missing=lacks)
        if not options.json:
            for name, lines in lacks.items():
                if lines:
                    say(f"{name}: {'; '.join(lines)}", err=True, wrap=True)
            say(f"{storage.shown(out)} ({size / 1e6:.2f} MB)", longest=4096)
    return 0
