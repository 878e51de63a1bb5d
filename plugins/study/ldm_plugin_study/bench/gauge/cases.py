"""The measured components, each as a call to be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core.contracts import Precision, draw_times
from ldm_core.contracts.configs import allowed_precisions
from ldm_core.model.arithmetic import allowed_by, arithmetic
from ldm_core.model.build import make_objective, make_sampling, sampling_site
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.sampling.run import LatentOptions, conditions_of, sample_latents
from ldm_core.training.denoiser.task import DiffusionLoss
from ldm_plugin_study.bench.gauge.feeding import loader, reads
from ldm_plugin_study.bench.gauge.subject import Subject
from ldm_plugin_study.bench.result.choice import Choice


@attrs.frozen(eq=False, kw_only=True)
class Case:
    """One component at one precision. A `call` does `parts` equal parts (steps of a sampler), each on `amount` images
    or bytes. `before`, if there is one, is done before each call and not timed."""

    component: str
    precision: str
    amount: int
    call: Callable[[], object]
    before: Callable[[], object] | None = None
    parts: int = 1
    parameters: int = 0
    computes: bool = True


def cases(subject: Subject, choice: Choice, notes: list[str]) -> Iterator[Case]:
    """Make the cases of `choice`, those of one model together; a line in `notes` for each one that cannot run."""
    for precision in choice.precisions:
        yield from _of_stage(subject, choice, precision, notes)
    for precision in choice.precisions:
        yield from _of_sampling(subject, choice, precision, notes)
    if "train" in choice.components:
        yield from _of_training(subject, choice, notes)
    if "loader" in choice.components:
        yield Case(component="loader", precision="", amount=subject.count, call=loader(subject), computes=False)
    if "storage" in choice.components:
        files = reads(subject)
        yield Case(
            component="storage", precision="", amount=files.size, call=files.call, before=files.forget, computes=False
        )


def _of_stage(subject: Subject, choice: Choice, precision: Precision, notes: list[str]) -> Iterator[Case]:
    wanted = [name for name in ("encode", "decode") if name in choice.components]
    if not wanted:
        return
    part = subject.recipe.first_stage
    if precision not in (among := allowed_precisions("first_stage", part.config)):
        notes.append(f"{', '.join(wanted)}: first stage '{part.use}' runs in {' or '.join(among)} alone")
        return
    stage, kind = subject.stage, subject.device.type
    images, latents = subject.batch["image"], subject.latents
    sides: dict[str, Callable[[], Tensor]] = {
        "encode": lambda: stage.encode_moments(images),
        "decode": lambda: stage.decode(latents),
    }

    def run(side: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad(), arithmetic(kind, precision):
            return side()

    count = parameters(stage)
    for name in wanted:
        call = _bound(run, sides[name])
        yield Case(component=name, precision=precision, amount=subject.count, call=call, parameters=count)


def _of_sampling(subject: Subject, choice: Choice, precision: Precision, notes: list[str]) -> Iterator[Case]:
    """The conditioners, the denoiser and a sampler's steps, of a model laid out for sampling."""
    wanted = [name for name in ("conditions", "forward", "step") if name in choice.components]
    if not wanted:
        return
    if _refused(subject, precision, notes, wanted):
        return
    model = subject.sampled_model(precision)
    common: dict[str, Any] = {"precision": precision, "amount": subject.count}
    if "conditions" in wanted and subject.recipe.conditioners:
        count = parameters(model.conditioners)
        yield Case(component="conditions", call=_conditions(subject, model), parameters=count, **common)
    count = parameters(model.denoiser)
    if "forward" in wanted:
        yield Case(component="forward", call=_forward(subject, model), parameters=count, **common)
    if "step" in wanted:
        steps = choice.sampler_steps
        yield Case(component="step", call=_steps(subject, model, steps), parts=steps, parameters=count, **common)


def _refused(subject: Subject, precision: Precision, notes: list[str], wanted: Sequence[str]) -> bool:
    """Say that the denoiser or an adapter does not run in `precision`."""
    for name, among in allowed_by(subject.recipe).items():
        if name.partition(".")[0] in ("denoiser", "adapters") and precision not in among:
            notes.append(f"{', '.join(wanted)}: {name} runs in {' or '.join(among)} alone")
            return True
    return False


def _conditions(subject: Subject, model: Model) -> Callable[[], object]:
    read, seeds = subject.read, subject.seeds

    def call() -> object:
        with torch.no_grad():
            return model.encode(read, seeds=seeds)

    return call


def _forward(subject: Subject, model: Model) -> Callable[[], object]:
    """One evaluation of the network as a sampler asks for it: the constant part of all steps is prepared."""
    x = torch.randn(subject.latents.shape, generator=torch.Generator().manual_seed(0)).to(subject.device)
    u = torch.full((subject.count,), 0.5, dtype=torch.float64, device=subject.device)
    t, predict = draw_times(model.schedule, u, x.shape[1:]), make_predict(model)
    with torch.no_grad():
        cond = model.merged(model.encode(subject.read, seeds=subject.seeds))

    def call() -> object:
        with torch.no_grad():
            return predict(x, t, [cond])

    return call


def _steps(subject: Subject, model: Model, steps: int) -> Callable[[], object]:
    """A run of the recipe's sampler under its guidance, as sampling has it."""
    recipe, settings = subject.recipe, subject.recipe.sample
    site = attrs.evolve(sampling_site(recipe, subject.stage), precision=model.precision)
    parts = make_sampling(recipe, subject.catalog, site)
    with torch.no_grad():
        conditions = conditions_of(model, subject.read, None, subject.seeds, options=recipe.accepted_options)
    options = LatentOptions(
        project=subject.stage.project if settings.project_x0 or settings.quantize_x0 else None,
        keep_eps=settings.quantize_x0,
        together=settings.branches == "together",
    )
    shape = tuple(subject.latents.shape[1:])
    return lambda: sample_latents(model, parts, conditions, shape, subject.seeds, steps, options)


def _of_training(subject: Subject, choice: Choice, notes: list[str]) -> Iterator[Case]:
    """The loss of a training step with its conditions, forward and backward, in one model at all precisions."""
    recipe = subject.recipe
    model = subject.model()
    objective: Any = make_objective(recipe, subject.catalog, sampling_site(recipe, subject.stage))
    if isinstance(objective, nn.Module):
        objective.to(subject.device)
    loss = DiffusionLoss(model, objective, recipe)
    loss.train()
    trained = [p for p in loss.parameters() if p.requires_grad]
    x0, read, seeds = subject.latents, subject.read, subject.seeds

    def run(precision: Precision) -> Callable[[], object]:
        def call() -> object:
            model.precision = precision
            value = loss(x0, read, seeds).value.mean()
            value.backward()
            for parameter in trained:  # so that the memory of gradients is the call's own
                parameter.grad = None
            return value.detach()

        return call

    for precision in choice.precisions:
        if not _refused(subject, precision, notes, ["train"]):
            yield Case(
                component="train",
                precision=precision,
                amount=subject.count,
                call=run(precision),
                parameters=parameters(loss),
            )


def parameters(module: Any) -> int:
    """Count the parameters of a part; 0 for one without a module."""
    return sum(p.numel() for p in module.parameters()) if isinstance(module, nn.Module) else 0


def _bound(function: Callable[[Any], object], argument: Any) -> Callable[[], object]:
    return lambda: function(argument)
