"""The whole run: check, first stage, latents, denoiser, samples; ``train`` and ``check`` share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli import summary
from ldm_core.cli.assemble import assemble
from ldm_core.cli.catalog import installed
from ldm_core.cli.flags import in_flags, input_flag
from ldm_core.cli.inputs import in_turn, name_classes, require_readers
from ldm_core.cli.launching import processes, progress_shown, start
from ldm_core.cli.options import RunOptions
from ldm_core.cli.output import first_process, print_problems, reporting, say, warnings_as_lines
from ldm_core.contracts import SIZE_KEYS, DataInfo
from ldm_core.data.class_names import spread
from ldm_core.data.inputs.fitted import fit_all
from ldm_core.errors import ConfigError, LDMError
from ldm_core.launch import memory, threads
from ldm_core.recipe import continuation
from ldm_core.recipe.check import remarks
from ldm_core.recipe.recipe import Recipe
from ldm_core.training import workflow
from ldm_core.training.samples.inputs import SampleInputs
from ldm_core.training.workflow import STAGES, RunResult

if TYPE_CHECKING:
    from ldm_core.data.palettes import Palette


@attrs.frozen
class Prepared:
    """A checked recipe, the keys and classes of its data, the inputs to sample, and notes for the user.

    `examples`: a mapping of conditioner inputs for each image, or None where held-out data says what to sample.
    """

    catalog: Catalog
    recipe: Recipe
    info: DataInfo
    examples: tuple[Mapping[str, Any], ...] | None
    notes: tuple[str, ...]


def prepare(options: RunOptions) -> Prepared:
    """Assemble the recipe, look into the data, check that all parts fit. Imports no torch; raises LDMErrors."""
    catalog = installed()
    assembled = assemble(options.request, catalog)
    recipe, info = workflow.prepare(assembled.plain, catalog)
    inputs = options.inputs.read(recipe.image_channels, recipe.image_size, info.keys)
    key, said = "class_label", options.inputs.class_label
    wanted = [*inputs, *([key] if said else []), *(["caption"] if recipe.sample.prompts else [])]
    require_readers(wanted, {c.name: c.config.reads for c in recipe.conditioners}, "; see --cond")
    classes = spread(key, said, info.class_names.get(key, ()), info.classes.get(key, 0))
    palettes = _palettes(info)  # colours become classes before a map is fitted, which would blend or border them
    given = in_turn(inputs, {key: classes} if classes else {})
    done = [fit_all(name_classes(row, info.class_names, info.classes, palettes), recipe, info.keys) for row in given]
    rows = [row for row, _ in done]
    notes = (
        assembled.notes
        + tuple(dict.fromkeys(line for _, lines in done for line in lines))
        + tuple(
            f"plugin '{b.plugin}' of {b.distribution} does not load ({b.error.splitlines()[0]}); see `ldm-run plugins`"
            for b in catalog.broken
        )
    )
    notes += tuple(remarks(recipe))
    return Prepared(catalog, recipe, info, _examples(recipe, rows), tuple(map(in_flags, notes)))


def _palettes(info: DataInfo) -> dict[str, Palette]:
    if not info.palettes:
        return {}
    from ldm_core.data.palettes import palette_of

    return {key: palette_of(rows) for key, rows in info.palettes.items()}


def _examples(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...] | None:
    """Make one mapping of inputs a prompt and row. ConfigError, before anything is trained, where one is incomplete."""
    inputs = rows[0]
    if not inputs:
        return None  # prompts alone are the recipe's; what other conditioners read then comes from held-out data
    prompts = recipe.sample.prompts
    examples = [
        {**rows[i % len(rows)], **({"caption": prompts[i % len(prompts)]} if prompts else {})}
        for i in range(max(len(prompts), len(rows)))
    ]
    problems = [
        f"conditioner '{part.name}' reads '{key}', which was not given beside {', '.join(inputs)}; "
        f"add {input_flag(key)}, or leave all inputs out to sample held-out data"
        for part in recipe.conditioners
        for key in part.config.reads
        if key not in examples[0] and key not in SIZE_KEYS
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(examples)


def run_stages(options: RunOptions, stages: Sequence[str] = STAGES) -> int:
    """Run the named stages, here or as processes of their own, and print the results. Returns the exit code."""
    return run_prepared(options, lambda: prepare(options), stages)


def run_prepared(options: RunOptions, prepare: Callable[[], Prepared], stages: Sequence[str] = STAGES) -> int:
    """:func:`run_stages` of another command's recipe, as `prepare` makes it."""
    if count := processes(options.launch):
        return _run_apart(count, options, prepare)
    first = first_process()
    if threads.current() is not None:  # a process of the command line's own, and not of one who calls this in Python
        memory.keep_freed()
    with reporting(options.json and first) as document, warnings_as_lines(most=2):
        prepared = prepare()
        out = options.out or continuation.default_out(prepared.recipe)
        shorter = "" if options.out else continuation.shorter_run(prepared.recipe)
        if first and not options.quiet:
            for note in filter(None, (*prepared.notes, in_flags(shorter), threads.remark())):
                say(note, wrap=True)
        result = _run_here(prepared, options, out, stages)
        if "samples" not in stages:
            result = attrs.evolve(result, samples="", model=result.model if "denoiser" in stages else "")
        document.update(summary.document(result, prepared.recipe))
        if first and not options.json:
            for line in summary.lines(result, prepared.recipe):
                say(line, wrap="ldm-run" not in line)  # commands are copied whole
    return 0


def _run_here(prepared: Prepared, options: RunOptions, out: str, stages: Sequence[str]) -> RunResult:
    """Run the stages in this process, with its progress on the terminal."""
    if options.force and first_process():
        workflow.take_over(prepared.recipe, out)
    with progress_shown(prepared.catalog, quiet=options.quiet):
        return workflow.run(
            prepared.recipe,
            prepared.info,
            prepared.catalog,
            out,
            stages=tuple(stages),
            inputs=SampleInputs(prepared.examples, options.strict),
        )


def _run_apart(count: int, options: RunOptions, prepare: Callable[[], Prepared]) -> int:
    """Start `count` processes of this command, after the recipe has been checked here."""
    try:
        with warnings_as_lines(most=2):
            prepared = prepare()
            out = options.out or continuation.default_out(prepared.recipe)
            continuation.continuation(prepared.recipe, out)
    except LDMError as error:
        if options.json:
            print_problems(error)
        raise
    quiet = options.quiet and storage.local_path(out) is not None
    return start(count, out, lambda text: None if quiet else say(text, err=True))
