"""Everything that a part may offer beside its contract, by name and with the default. Imports no torch.

A part may derive from the class of its kind, or just have the names. The core reads both through
:func:`ldm_core.contracts.configs.of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.config import answer
from ldm_core.contracts.values import EMPTY, BlockSpan, WeightSlice

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ldm_core.contracts.conditioning import Cond
    from ldm_core.contracts.provisional import DiffusionModel
    from ldm_core.contracts.run import SamplingRun
    from ldm_core.contracts.stage_objective import Opponent, StageBatch, StageTraining, TrainableStage


class PartAnswers:
    """Answers of any part."""

    __slots__ = ()

    @answer
    def config(self) -> Any:
        """The config that the part was built from, where it keeps it."""
        return None

    @answer
    def recompute_blocks(self) -> Callable[[], Sequence[nn.Module]] | None:
        """``recompute_blocks()`` lists modules whose activations a trainer may drop and compute again."""
        return None

    @answer
    def known(self) -> Callable[[Mapping[str, Any]], tuple[Any, Any] | None] | None:
        """``known(example)`` gives a picture, uint8 (c, H, W), and booleans (H, W) of the pixels that stay."""
        return None


class ConditionerAnswers(PartAnswers):
    """Answers of a conditioner."""

    __slots__ = ()

    @answer
    def fit(self) -> Callable[[Iterable[Mapping[str, Any]]], None] | None:
        """``fit(examples)`` learns from the annotations, once before training (a tokenizer)."""
        return None

    @answer
    def class_tables(self) -> Mapping[str, tuple[str, int]]:
        """Tables with a row a class: parameter name -> (batch key, axis). Finetuning then finds classes by name."""
        return EMPTY

    @answer
    def truncated(self) -> Callable[[str], str] | None:
        """``truncated(prompt)`` gives the text that is cut off, or ""."""
        return None

    @answer
    def omitted(self) -> Callable[[Mapping[str, Any]], str] | None:
        """``omitted(example)`` says in words what is left out of the example, or ""."""
        return None


class DenoiserAnswers(PartAnswers):
    """Answers of a denoiser."""

    __slots__ = ()

    @answer
    def prepare(self) -> Callable[[Cond], Cond] | None:
        """``prepare(cond)`` puts what is free of x into extras: once a run, a bundle and a scale of adapters."""
        return None

    @answer
    def reusable_spans(self) -> Callable[[], Sequence[BlockSpan]] | None:
        """``reusable_spans()`` lists what a cache may keep from step to step, numbered as its `branch`."""
        return None

    @answer
    def addresses(self) -> Callable[[], Mapping[str, WeightSlice]] | None:
        """``addresses()`` gives the place of each weight that files of adapters name, by its published address without
        ``.weight``: of a layer by itself, or of rows of a fused one."""
        return None


class AdapterAnswers(PartAnswers):
    """Answers of an adapter."""

    __slots__ = ()

    @answer
    def scale(self) -> float | None:
        """The strength, which may be set; it acts from the next call of the network on. None if it has none."""
        return None

    @answer
    def fuse(self) -> Callable[[DiffusionModel], None] | None:
        """``fuse(model)`` puts new parameters, the change in them, in the places of the base's, and takes the hooks
        away. It writes into no tensor, since other models share them."""
        return None

    @answer
    def unfuse(self) -> Callable[[DiffusionModel], None] | None:
        """``unfuse(model)``, after a fuse, puts the very parameters of before back, and the hooks."""
        return None

    @answer
    def begin(self) -> Callable[[SamplingRun], None] | None:
        """``begin(run)`` is called before the first evaluation of the model in each run of a sampler. What it makes is
        kept by ``run.state``, as several runs may be under way at once."""
        return None

    @answer
    def end(self) -> Callable[[SamplingRun], None] | None:
        """``end(run)`` is called when a run that began ends, by an error or a cancellation too; once a run."""
        return None


class MetricAnswers(PartAnswers):
    """Answers of a metric."""

    __slots__ = ()

    @answer
    def least(self) -> int:
        """The smallest number of pictures, on either side, of which ``values`` gives a sound number."""
        return 1

    @answer
    def sums(self) -> Callable[[Mapping[str, Any]], Mapping[str, Any]] | None:
        """``sums(rows)`` -> float64 arrays or whole numbers of fixed shapes, in the place of the rows. Those of two
        sets, added entry by entry, are those of both together, so that neither set is held. None: the rows themselves
        go into ``values``."""
        return None

    @answer
    def label(self) -> str:
        """The metric as tables and plots name it; "" = its name in the catalog. One that differs from what its name
        promises, as by another network, says so here."""
        return ""


class ObjectiveAnswers(PartAnswers):
    """Answers of an objective."""

    __slots__ = ()

    @answer
    def prepare(self) -> Callable[[DiffusionModel], None] | None:
        """``prepare(model)``, called once before the optimizer is made, makes what the model decides."""
        return None

    @answer
    def after_step(self) -> Callable[[DiffusionModel, int], None] | None:
        """``after_step(model, step)`` follows each step of the optimizer; see :class:`ldm_core.contracts.Objective`."""
        return None

    @answer
    def sampled(self) -> Callable[[], Mapping[str, Tensor]] | None:
        """``sampled()`` gives weights of the objective, by names and of shapes of the model's state dict, that take the
        place of the model's own in its file and in previews, such as a teacher's."""
        return None


class ScheduleAnswers(PartAnswers):
    """Answers of a noise schedule."""

    __slots__ = ()

    @answer
    def table_steps(self) -> int | None:
        """The number of levels of a table; None = continuous."""
        return None


class FirstStageAnswers(PartAnswers):
    """Answers of a first stage, most of them of one that is trained; :class:`ldm_core.contracts.TrainableStage` holds
    what that must have.

    `nll_reduction` is "sum" or "mean", `regularization_weight` a number of 0 or more. `last_layer` and `encoder_layer`,
    attributes or properties, are parameters of the stage itself. `indices` are the codes of ``codebook_counts``.
    """

    __slots__ = ()

    @answer
    def encode_in_pieces(self) -> Callable[[Tensor, int], Tensor] | None:
        """``encode_in_pieces(x, memory)`` is ``encode_moments(x)`` of large pictures to rounding, in eval mode, without
        gradients, within about `memory` bytes beside its arguments and its result. A stage without it encodes
        overlapping windows, which are blended."""
        return None

    @answer
    def decode_in_pieces(self) -> Callable[[Tensor, int], Tensor] | None:
        """``decode_in_pieces(z, memory)`` is ``decode(z)`` in the same way."""
        return None

    @answer
    def nll_reduction(self) -> str:
        """The errors that the regularization is made for: "sum", summed over an image, or "mean", averaged over it."""
        return "mean"

    @answer
    def regularization_weight(self) -> float:
        """The weight of ``Reconstruction.regularization`` in the loss, 0 or more."""
        return 1.0

    @answer
    def last_layer(self) -> Tensor | None:
        """The parameter (weight of the last decoder convolution) whose gradients set a decoder's adaptive weight."""
        return None

    @answer
    def encoder_layer(self) -> Tensor | None:
        """The parameter (weight of the last encoder convolution) whose gradients set auxiliary losses' weights."""
        return None

    @answer
    def diagnostics(self) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None:
        """``diagnostics(logs)`` makes scalars of the averaged logs that have axes; without it their means count."""
        return None

    @answer
    def init_codebook(self) -> Callable[..., None] | None:
        """``init_codebook(latents, *, seed)`` starts the codes from latents. Before it, `quantizing` is False."""
        return None

    @answer
    def revive(self) -> Callable[..., int] | None:
        """``revive(latents, dead, *, seed)`` moves the codes in `dead` onto latents; returns how many moved."""
        return None

    @answer
    def indices(self) -> Callable[[Tensor], Tensor] | None:
        """``indices(moments)`` gives the code of each latent: (B, C, *s) -> (B, *s) int64, below `codebook_size`."""
        return None

    @answer
    def codebook_size(self) -> int:
        """The number of codes, where `indices` gives them."""
        return 0


class StageObjectiveAnswers(PartAnswers):
    """Answers of a stage objective. Every process gives the same, and calls are in this order.

    Opponents are modules with an optimizer each, trained after the stage. A training that goes on from weights,
    optimizers and `state` ends as one that nobody stopped.
    """

    __slots__ = ()

    @answer
    def prepare(self) -> Callable[[TrainableStage, StageTraining], None] | None:
        """``prepare(stage, training)``, called once before the optimizers are made; ConfigError if the stage lacks a
        name that the loss needs. Inside, torch's generators are seeded by the recipe's seed."""
        return None

    @answer
    def opponents(self) -> Mapping[str, Opponent]:
        """The modules that are trained against the stage, by name, in this order; asked for after `prepare`.
        ``autoencoder``, ``ema`` and ``task`` are no names for them: the run's own."""
        return EMPTY

    @answer
    def before_step(self) -> Callable[[int], None] | None:
        """``before_step(step)``, without gradients, before anything else of the step."""
        return None

    @answer
    def survey(self) -> Callable[[TrainableStage, Sequence[StageBatch]], Sequence[object]] | None:
        """``survey(stage, batches)``, before a step of several micro-batches: the ``whole`` of each of them."""
        return None

    @answer
    def after_step(self) -> Callable[..., Mapping[str, Tensor]] | None:
        """``after_step(step, images, logs)``, without gradients, after a step that counts, with each micro-batch's
        images and logs; returns logs to add where they are lacking."""
        return None

    @answer
    def state(self) -> Callable[[], Mapping[str, Tensor]] | None:
        """``state()``: tensors of a resumed run that are neither parameters nor buffers."""
        return None

    @answer
    def load_state(self) -> Callable[[Mapping[str, Tensor]], None] | None:
        """``load_state(state)`` goes on from :attr:`state`; names may be missing that older runs did not have."""
        return None

    @answer
    def scores(self) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]] | None:
        """``scores(x, y)``: further scores (B,) by name of images and reconstructions (B, c, H, W) in [-1, 1], on
        either's device; {} where the images are too small."""
        return None

    @answer
    def features(self) -> nn.Module | None:
        """A module with a `name`, (B, c, H, W) -> (B, D): the Fréchet distance is taken on it and logged so."""
        return None


class DatasetAnswers(PartAnswers):
    """Answers of a data set."""

    __slots__ = ()

    @answer
    def image_sizes(self) -> Callable[[], Any] | None:
        """``image_sizes()`` gives height and width of each picture (N, 2) without decoding it; 0 = not known."""
        return None

    @answer
    def image_size(self) -> Callable[[int], tuple[int, int]] | None:
        """``image_size(index)`` gives height and width of one picture without decoding it; zeros = not known."""
        return None

    @answer
    def image_form(self) -> Callable[[int], str] | None:
        """``image_form(index)`` gives a picture's stored format and mode (``TIFF 16-bit grey``); empty = not known."""
        return None

    @answer
    def max_bad(self) -> float | None:
        """The share of examples that may be unreadable; None if no file is read."""
        return None

    @answer
    def widths(self) -> Mapping[str, int]:
        """The length of the vectors of a key, where it is known."""
        return EMPTY

    @answer
    def lacks(self) -> Mapping[str, str]:
        """Keys that one might expect, and why they are not offered."""
        return EMPTY

    @answer
    def palettes(self) -> Mapping[str, Sequence[tuple[int, int, int, int]]]:
        """By key of label maps: red, green, blue and class of each colour, where colours stand for classes."""
        return EMPTY

    @answer
    def labels(self) -> Callable[[str], Any] | None:
        """``labels(key)`` gives the class `key` of each example (N,) without reading pictures; -1 = not known."""
        return None

    def describe(self) -> str:
        """Return a line about the data."""
        return ""

    def remarks(self) -> str:
        """Return what is left out of the data or seems odd about it."""
        return ""

    @answer
    def sections(self) -> Sequence[Any]:
        """The parts of a mixture in the order of the indices, each with `length` and `weight`."""
        return ()

    @answer
    def many_captions(self) -> bool:
        """True if some pictures have several captions."""
        return False

    @answer
    def counted(self) -> Callable[[Mapping[str, int]], Any] | None:
        """``counted(classes)`` is a view with these numbers of classes, by key, where classes have no names."""
        return None

    @answer
    def reduced(self) -> Callable[[Sequence[tuple[int, int]], Any, float], Any] | None:
        """``reduced(sizes, fit, smallest)`` is a view that may decode pictures smaller than they are."""
        return None

    @answer
    def former_fingerprint(self) -> Callable[[], str] | None:
        """``former_fingerprint()`` is the hash as an older release made it."""
        return None


ANSWERS: Mapping[str, type[PartAnswers]] = {
    "adapter": AdapterAnswers,
    "conditioner": ConditionerAnswers,
    "dataset": DatasetAnswers,
    "denoiser": DenoiserAnswers,
    "first_stage": FirstStageAnswers,
    "metric": MetricAnswers,
    "objective": ObjectiveAnswers,
    "schedule": ScheduleAnswers,
    "stage_objective": StageObjectiveAnswers,
}
"""The class of optional answers of each kind of part; the other kinds have :class:`PartAnswers`."""
