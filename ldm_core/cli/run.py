"""The whole job: check, first stage, latents, denoiser, samples. Also the common part of ``train`` and ``check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli.assemble import Request, assemble
from ldm_core.cli.flags import in_flags, input_flag
from ldm_core.cli.inputs import fit_all, name_classes, read_inputs, require_readers
from ldm_core.cli.launching import log_of_progress, processes, start
from ldm_core.cli.output import first_process, print_problems, reporting, say, warnings_as_lines
from ldm_core.contracts import DataInfo
from ldm_core.errors import ConfigError, LDMError
from ldm_core.recipe.check import remarks
from ldm_core.recipe.recipe import Recipe

STAGES = ("first_stage", "latents", "denoiser", "samples")


@attrs.frozen
class Prepared:
    """A checked recipe, what its data offers, what the user wants sampled, and notes for the user.

    `examples`: a mapping of conditioner inputs for each image, or None where held-out data says what to sample.
    """

    catalog: Catalog
    recipe: Recipe
    info: DataInfo
    examples: tuple[Mapping[str, Any], ...] | None
    notes: tuple[str, ...]


def prepare(options: Mapping[str, Any], settings: Sequence[str]) -> Prepared:
    """Assemble the recipe, look into the data, check that all parts fit. Imports no torch; raises LDMErrors."""
    from ldm_core.training import workflow

    catalog = Catalog.discover()
    assembled = assemble(Request.of(options, settings), catalog)
    recipe, info = workflow.prepare(assembled.plain, catalog)
    inputs = read_inputs(
        options["input"],
        boxes=options["boxes"],
        segmentation=options["segmentation"],
        class_label=options["class_label"],
        image_channels=recipe.image_channels,
    )
    wanted = [*inputs, *(["caption"] if recipe.sample.prompts else [])]
    require_readers(wanted, {c.name: c.config.reads for c in recipe.conditioners}, "; see --cond")
    inputs = name_classes(inputs, info.class_names, info.classes)
    inputs, fitted = fit_all(inputs, recipe, info.keys)
    notes = (
        assembled.notes
        + tuple(fitted)
        + tuple(
            f"plugin '{b.plugin}' of {b.distribution} does not load ({b.error.splitlines()[0]}); see `ldm-run plugins`"
            for b in catalog.broken
        )
    )
    notes += tuple(remarks(recipe))
    return Prepared(catalog, recipe, info, _examples(recipe, inputs), tuple(map(in_flags, notes)))


def _examples(recipe: Recipe, inputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
    """One mapping of inputs a prompt; found incomplete here, before anything is trained."""
    if not inputs:
        return None  # prompts alone are the recipe's; what other conditioners read then comes from held-out data
    examples = [{**inputs, "caption": p} for p in recipe.sample.prompts] or [dict(inputs)]
    problems = [
        f"conditioner '{part.name}' reads '{key}', which was not given beside {', '.join(inputs)}; "
        f"add {input_flag(key)}, or leave all inputs out to sample held-out data"
        for part in recipe.conditioners
        for key in part.config.reads
        if key not in examples[0]
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(examples)


def whole_run(options: Mapping[str, Any], settings: Sequence[str]) -> int:
    """``ldm-run`` without a subcommand. Returns the exit code."""
    return run_stages(options, settings, STAGES)


def run_stages(options: Mapping[str, Any], settings: Sequence[str], stages: Sequence[str]) -> int:
    """Run the named stages, here or as processes of their own, and tell what came of them. Returns the exit code."""
    if count := processes(options):
        return _run_apart(count, options, settings)
    quiet = bool(options["quiet_flag"])
    as_json = bool(options["json_flag"]) and first_process()
    with reporting(as_json) as document, warnings_as_lines(most=2):
        prepared = prepare(options, settings)
        if not quiet and first_process():
            for note in prepared.notes:
                say(note, wrap=True)
        from ldm_core.cli import summary
        from ldm_core.cli.progress import Progress
        from ldm_core.recipe import continuation
        from ldm_core.training import workflow

        out = options["out"] or continuation.default_out(prepared.recipe)
        shorter = "" if options["out"] else continuation.shorter_run(prepared.recipe)
        if shorter and not quiet and first_process():
            say(in_flags(shorter), wrap=True)
        if options["force_flag"] and first_process():
            workflow.take_over(prepared.recipe, out)
        progress = Progress(quiet=quiet)
        log = log_of_progress(quiet=quiet)
        if first_process():
            prepared.catalog.manager.register(progress)
        if log is not None:
            prepared.catalog.manager.register(log)
        try:
            result = workflow.run(
                prepared.recipe,
                prepared.info,
                prepared.catalog,
                out,
                stages=tuple(stages),
                examples=prepared.examples,
                strict=bool(options["strict_flag"]),
            )
        finally:
            progress.close()
        if "samples" not in stages:
            result = attrs.evolve(result, samples="", model=result.model if "denoiser" in stages else "")
        document.update(summary.document(result, prepared.recipe))
        if first_process() and not options["json_flag"]:
            for line in summary.lines(result, prepared.recipe):
                say(line, wrap="ldm-run" not in line)  # commands are copied whole
    return 0


def _run_apart(count: int, options: Mapping[str, Any], settings: Sequence[str]) -> int:
    """Start `count` processes of this command. What is wrong with the recipe is found, and told, before."""
    from ldm_core.recipe import continuation

    try:
        with warnings_as_lines(most=2):
            prepared = prepare(options, settings)
            out = options["out"] or continuation.default_out(prepared.recipe)
            continuation.continuation(prepared.recipe, out)
    except LDMError as error:
        if options["json_flag"]:
            print_problems(error)
        raise
    quiet = bool(options["quiet_flag"]) and storage.local_path(out) is not None
    return start(count, out, lambda text: None if quiet else say(text, err=True))
