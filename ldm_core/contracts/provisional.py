"""Contracts that may change until 1.0: schedules, objectives, guidance, data sets and more."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, runtime_checkable

import attrs

from ldm_core.contracts.conditioning import Cond, Conditions
from ldm_core.contracts.values import PRECISIONS, Batch, Estimate, LatentSpec, LossOutput, Precision

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ldm_core.contracts.streams import Streams

Predict: TypeAlias = "Callable[[Tensor, Tensor, Sequence[Cond]], list[Estimate]]"
"""(x, t, branches) -> one Estimate a branch: what a guidance calls; the core batches what can be batched."""


def cooperative_init(self: Any, *args: Any, **kwargs: Any) -> None:
    """Call the next ``__init__`` behind the protocols among the bases: a Protocol may stand before ``nn.Module``."""
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


@runtime_checkable
class NoiseSchedule(Protocol):
    """x_t = alpha(t) x0 + sigma(t) eps, t in [0, t_max]. Provisional.

    Tables have t = index + 1, and t = 0 is data. alpha(0) = 1, sigma(0) = 0, sigma / alpha increases; alpha may be 0
    at t_max (rectified flow, zero terminal SNR). Coefficients are float64, at whole times and between them. A table
    says its length, which is t_max, by the attribute `table_steps`, on the schedule and on its config. One that calls
    itself variance preserving has alpha² + sigma² = 1.
    """

    t_max: float

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient of x0 at t, same shape as t."""
        ...

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient of eps at t, same shape as t."""
        ...

    @abstractmethod
    def noise_level(self, t: Tensor) -> Tensor:
        """The level as the network is told: the index of a table, ln(sigma) / 4, 1000 t; strictly monotone in t."""
        ...

    @abstractmethod
    def draw(self, u: Tensor) -> Tensor:
        """Uniform u in [0, 1) -> training times in (0, t_max], same shape, monotone in u; a table gives whole numbers,
        each of them.

        Where the config answers `by_size` with True, it is called as ``draw(u, shape=shape)``: `shape` (C, *s) is that
        of one example's latents, None where no size is meant. Every shape gives times as above. Callers use
        :func:`ldm_core.contracts.draw_times`.
        """
        ...


@runtime_checkable
class Parameterization(Protocol):
    """The meaning of F's output, as x0 = c_skip x + c_out F(c_in x). Provisional."""

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma) -> (c_skip, c_out, c_in), elementwise, in alpha's shape and dtype.

        An exact F gives x0 back: x0 = c_skip x + c_out F. c_in brings x of data of unit variance to a variance of 2 or
        less. They are finite at alpha = 0, unless the config says ``needs_terminal_alpha = True``.
        """
        ...


class DiffusionModel(Protocol):
    """A denoiser under a schedule and a parameterization, as an objective or an adapter meets it. Provisional.

    ``model(x, t, cond)`` gives the :class:`Estimate` of x0 at times t (B,); `device` is that of its parameters.
    `conditioners` are modules by their names in the recipe; `denoiser` is the network F.
    """

    denoiser: Any
    conditioners: nn.ModuleDict
    schedule: NoiseSchedule
    parameterization: Parameterization

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        ...

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) at t (B,), float64, each (B,)."""
        ...

    def network(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *s), t (B,) -> the denoiser's output in float32: F and, beyond C channels, its own."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Estimate:
        """x (B, C, *s), t (B,) -> the estimate of x0, in x's dtype (float32 or better)."""
        ...


@attrs.frozen(eq=False)
class LossContext:
    """The training around one call of an objective's loss. It is good for this call alone."""

    conditions: Conditions
    """The conditioners' bundles of the batch, of which none is dropped: `cond`, `null`, and any choice by `pick`."""
    batch: Batch
    """The collated batch as the run has read it, on the model's device: the conditioners' keys, and the `image` (-1 to
    1) or its `moments`."""
    step: int
    """The number of this step of the training, from 0."""
    steps: int
    """The number of steps of the whole training."""


@runtime_checkable
class Objective(Protocol):
    """The draw of times and the weight of errors. Provisional.

    It may be a module with parameters and buffers of its own. Its parameters are trained, and averaged, with the
    model's, but those that it freezes in ``prepare``. All of its state dict moves with the model, is in a run's
    checkpoints and goes on from them. Of these only what ``sampled()`` gives, by names of the model's state dict, is in
    the model's file, in the place of the model's own. Its first weights depend on the recipe's seed.

    It may have ``prepare(model)``, called once before the optimizer is made: there it can make what the model decides,
    such as a teacher, a copy of ``model.denoiser``.

    It may have ``after_step(model, step)``, called without gradients after each step (from 0) of the optimizer that
    counts, and before the model's averages; a step that is left out (a loss that is not finite) has no such call. There
    it may change its own buffers and frozen parameters, such as a target's moving average. It leaves the model's
    weights and gradients, its own trained parameters and the global generators as they are.
    """

    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def loss(self, model: DiffusionModel, x0: Tensor, cond: Cond, *, streams: Streams) -> LossOutput:
        """x0 (B, C, *s) -> a loss per example, its mean over the example's values: `value` (B,), finite, not negative.

        `model` offers what :class:`DiffusionModel` lists: ``model.schedule``, ``model.network``, ``model(x, t, cond)``.
        Times and noise come from `streams`, those of row i from stream i. Every parameter of the model gets a gradient,
        and so does `cond`. Logs are detached scalars or (B,).

        Where the config answers `needs_context` with True, it is also handed ``context=``, a :class:`LossContext`; it
        is declared as ``context: LossContext | None = None``.
        """
        ...


@runtime_checkable
class Guidance(Protocol):
    """Combines the model's estimates under several conditionings. Provisional.

    Its config says with `needs_null` (bool) whether it calls the model without some condition, and with `conditioners`,
    where it tells any apart, their names, which the check holds to the recipe. Nothing is kept on it between calls but
    what is the same for all of them; what it makes of a run's batch is kept by ``conditions.again``, and what it keeps
    from step to step by ``conditions.run.state(self, make)``. A run says the step too; it is None outside of a sampler,
    where the guidance does without. A branch with options is ``conditions.with_options(names, ...)``, and the config
    lists their names in `branch_options`.

    Its config says in `reads` which inputs of an image it finds in ``conditions.batch`` beside those of the
    conditioners, collated as theirs are. A recipe may name several: `guidance`, and in `guides` others around it. To
    one of these, ``predict`` answers the bundle ``conditions.cond`` with the estimate as it is guided so far, and every
    other bundle with the model's; so one that asks for no other bundle acts on top of any guidance.

    Fields of its config with these names mean the same in every guidance: `scale` 1 gives the conditional estimate and
    0, where it needs a null there, the unconditional one; `scales`, by conditioner, all equal are `scale`; outside of
    `interval`, two levels sigma / alpha, the conditional branch alone is evaluated, row by row; at `rescale` 1 the
    network's output deviates as the conditional one does.
    """

    @abstractmethod
    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the guided estimate, an :class:`Estimate` whose x0 has x's shape, float32.

        ``predict(x, t, branches)`` wants x and t of B rows and branches of B rows each: it batches what it can, and the
        result does not depend on that. Nulls matter where `needs_null` is True, and nowhere else. Gradients pass.
        """
        ...


@runtime_checkable
class TimeGrid(Protocol):
    """The times at which a sampler evaluates the schedule. Provisional."""

    @abstractmethod
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        """Strictly decreasing float64 times; times[-1] is the level of the output (0, or legacy 1). `steps`
        intervals, or more where a config's `uneven` asks for it; a rule that cannot give that number raises ValueError
        naming the nearest that it can. The config's ``problem(table_steps, steps)``, where it has one, says the same
        without torch. Sigma / alpha falls from each time to the next, and the longest interval shrinks as steps grow.
        Equal calls give equal times, which are the caller's to edit.

        Where the config answers `by_size` with True, it is called as ``times(schedule, steps, shape=shape)``: `shape`
        (C, *s) is that of one image's latents, None where no size is meant. Every shape gives times as above, and the
        same numbers of steps are refused. Callers use :func:`ldm_core.contracts.grid_times`.
        """
        ...


@runtime_checkable
class Adapter(Protocol):
    """LoRA, ControlNet, IP-Adapter, textual inversion: changes a model. Provisional.

    It acts by forward hooks, or by other weights: :func:`ldm_core.nn.changed_weight.change_weight` lets a layer compute
    with a function of its weight. The core attaches it to a copy of the model's modules that shares their tensors, so
    that runs with and without it go on side by side: it finds its layers in `attach`, and never writes into a tensor of
    the model. A hook finds the bundle, the level, the grid of its tokens and the run by
    :func:`~ldm_core.contracts.evaluation`, which is None in a call outside of a model: it stashes none of them on a
    module, since calls of several threads meet there. What it keeps from step to step it keeps by ``run.state``.

    :class:`~ldm_core.contracts.AdapterAnswers` lists its optional answers. `scale` is its strength, which may be set at
    any time and leaves the estimate bit for bit that of the base at 0. A config with a field `scale` lets a recipe set
    the strength. ``fuse(model)`` puts new parameters, the change in them, in the places of the base's and takes the
    hooks away: the estimate is that of before to 1e-5, relative to its largest value or 1. ``unfuse(model)`` puts the
    very parameters of before back, and the hooks. ``begin(run)`` and ``end(run)`` are called around each run of a
    sampler; they leave nothing behind that another run could see.
    """

    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def attach(self, model: DiffusionModel) -> None:
        """Hook into `model`, a :class:`DiffusionModel`; base modules, state keys and weights stay as they are.

        Attached, it changes the estimate, by itself or over a run. Its own parameters get gradients through the model,
        and its state dict holds all that it learned. What it makes of the layers' shapes it makes here, equally for
        equal seeds.
        """
        ...

    @abstractmethod
    def detach(self) -> None:
        """Take all hooks away; the model is bit for bit what it was."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """Latents of a trained first stage to pictures, in the stage's place; a ``torch.nn.Module``. Provisional.

    Built from ``factory(config, site)``, where ``site.latent`` and ``site.channels`` say the latents that it takes and
    the channels that it makes; its `latent` is the site's. Its file names the first stage behind its latents by the
    hash of that stage's file, and pictures of another stage's latents are refused. By ``decode_in_pieces``, of
    :class:`~ldm_core.contracts.FirstStageAnswers`, it may take large pictures: the results are those of the whole to
    rounding, within whatever memory. Ownership of device, mode, freezing and parameters: see :mod:`ldm_core.contracts`.
    """

    latent: LatentSpec
    __init__ = cooperative_init  # type: ignore[misc]

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B, C, *s) of any size -> images (B, c, H, W) on the scale of [-1, 1], not clamped; each
        side has the stride's multiple of its cells. Gradients pass, and each row is decoded by itself."""
        ...


@attrs.frozen(eq=False)
class Network:
    """One function of a trained model, as a runtime is handed it: `name` is ``denoiser``, ``encode_moments`` or
    ``decode``, and `module` the module with this function, frozen, in eval mode, on its device. `precision` is its
    arithmetic here, `precisions` are the allowed ones. Provisional."""

    name: str
    module: nn.Module
    precision: Precision = "fp32"
    precisions: Sequence[Precision] = PRECISIONS

    @property
    def call(self) -> Callable[..., Tensor]:
        """The function by torch: (x, noise_level, cond) -> F of a denoiser, else tensor -> tensor."""
        return self.module if self.name == "denoiser" else getattr(self.module, self.name)


@runtime_checkable
class Runtime(Protocol):
    """Computes trained networks in the place of torch's own calls. Provisional.

    `words` is its name with versions, for the metadata of pictures. Its config says by `keeps_hooks` if hooks and
    changed weights inside of the networks act in it as before; elsewhere a model with adapters is refused.
    """

    words: str

    @abstractmethod
    def function(self, network: Network) -> Callable[..., Tensor]:
        """The function in the place of ``network.call``, or that call itself. Equal arguments give float32 results
        equal to the runtime's stated bound, at any batch and at every size of the module's. It is called
        in the network's arithmetic, without gradients, from several threads at once; it changes no argument and leaves
        the module as it is. Results are in memory of their own. Asked anew after a change of a module's weights, it
        computes with the new ones. An :class:`~ldm_core.errors.LDMError` of one line says what this machine lacks."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """Examples by index, torch-free. Provisional.

    `keys` name -> geometry: ``image`` (c, H, W) uint8 | ``map`` (..., H, W) | ``boxes`` (N, 4) x, y, w, h in [0, 1] |
    ``per_box`` (N, ...) | ``value``. `classes` and `class_names`: per key, where known.

    :class:`~ldm_core.contracts.DatasetAnswers` lists its optional answers: sizes without decoding, the share of bad
    examples, widths of vectors, a line about the data.

    Labels lie in [0, classes). A size that is told without decoding is the picture's, or zeros. A data set can be
    pickled: worker processes read through copies.
    """

    keys: Mapping[str, str]
    classes: Mapping[str, int]
    class_names: Mapping[str, tuple[str, ...]]

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples, at least one."""
        ...

    @abstractmethod
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Example `index` with exactly `keys`, each of its geometry: a function of the index alone, whatever was read
        before. Its arrays are the caller's to edit. IndexError where the index is not below the length."""
        ...

    @abstractmethod
    def select(self, keys: Iterable[str]) -> Dataset:
        """A view whose examples decode and hold only `keys`, their number, order and values as they were."""
        ...

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of what is read: equal for equal data, another for other data."""
        ...


@runtime_checkable
class Degradation(Protocol):
    """Spoils pictures: a small version, a hole. Torch-free. Provisional.

    A conditioner's row in a recipe names one by `degradation`, and a run makes an input of the conditioner by it: the
    spoilt picture in the place of the picture itself, or a mask for data without masks. Its config says by `makes` one
    of the two; the conditioner's config takes it by `degradable`, under a key. In training the generator is one of the
    example and its epoch, in validation and in figures one of the picture alone. In sampling nothing is made: the
    spoilt picture is given.

    It keeps nothing between calls, so workers and resumed runs make the same. It can be pickled: worker processes make
    through copies.
    """

    @abstractmethod
    def degrade(
        self, picture: NDArray[np.uint8], size: tuple[int, int], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        """A picture uint8 (c, H, W), fitted and cut, c of 1 or 3 -> the config's `makes`, of uint8.

        ``image``: (c, *size), `size` (h, w) being the one at which the conditioner takes it. ``mask``: (H, W), 255 in
        holes and 0 elsewhere; `size` is (H, W). All draws are made from `random`: equal generators give equal
        results. The picture stays as it is. A size or a picture beyond its means is an
        :class:`~ldm_core.errors.LDMError`.
        """
        ...


@runtime_checkable
class Observer(Protocol):
    """Told of a run's progress through the hooks of :mod:`ldm_core.catalog.hookspecs`. Provisional.

    It implements one hook at least, each marked with ``hookimpl``. Every process makes one and only the first is told:
    making it writes no file and starts no thread. Told of a run, of whatever end and whatever numbers, it raises
    nothing but an :class:`~ldm_core.errors.LDMError` at ``ldm_run_start``; a run may end that never began. The pictures
    it draws of a stage are PNGs, each by a word of lower-case letters. It changes nothing: what it is handed, random
    generators, signal handlers and stdout stay as they were.
    """
