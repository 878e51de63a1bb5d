"""The contracts between the core and its parts: what a component is handed and what it must give back.

Importing this module does not import torch. Shapes: B batch; C latent channels; ``*s`` latent axes (h, w; a video
has f, h, w); L tokens. Images between components are float in [-1, 1]; ``x``, ``x0`` and schedule coefficients are
float32 or better.

:class:`FirstStage`, :class:`Conditioner`, :class:`Denoiser` and :class:`Sampler` are what users subclass: they are
the stable API. A subclass that forgets a method fails at construction with the method's name. All other contracts
are provisional until 1.0.

Who owns what, for every component that is a ``torch.nn.Module`` (first stages, conditioners, denoisers):

* **device** - the core moves a component with ``.to(device)``; a component creates tensors on the device of its
  inputs or of its parameters and never picks one itself.
* **train/eval mode** - the core calls ``.train()`` and ``.eval()``; a component only reads ``self.training``.
* **freezing** - the core sets ``requires_grad``; a component neither freezes itself nor wraps itself in ``no_grad``.
* **parameters** - a component registers its own and no one else's: a part that borrows another's module holds it
  unregistered. Everything that it learned is in its ``state_dict``, as tensors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ldm_core.specs import EMPTY as EMPTY
from ldm_core.specs import Accepts as Accepts
from ldm_core.specs import CondSpec as CondSpec
from ldm_core.specs import DataInfo as DataInfo
from ldm_core.specs import LatentSpec as LatentSpec
from ldm_core.specs import Site as Site

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_core.cond import Cond, Conditions
    from ldm_core.diffusion import Model
    from ldm_core.streams import Streams


def _cooperative_init(self: Any, *args: Any, **kwargs: Any) -> None:
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


Batch: TypeAlias = Mapping[str, Any]
"""A collated batch: equal-shaped arrays stacked into tensors, all else a list of length B."""


class Estimate(NamedTuple):
    """What a model estimates: `x0` (B, C, *s) float32; `extra`, denoiser channels beyond C (a learned variance).

    `project`: what is to be made of x0 once eps has been taken from it (the nearest codes); it is handed to samplers
    alone whose config says `quantizes` (bool), and they use :attr:`data`.
    """

    x0: Tensor
    extra: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None

    @property
    def data(self) -> Tensor:
        """x0 as the step is to take it: projected where that is asked for."""
        return self.x0 if self.project is None else self.project(self.x0)


class LossOutput(NamedTuple):
    """A loss per example: `value` (B,), unweighted over the batch; `logs`, detached scalars or (B,) by name."""

    value: Tensor
    logs: Mapping[str, Tensor] = EMPTY


Denoise: TypeAlias = "Callable[[Tensor, Tensor], Estimate]"
"""(x, t (B,)) -> Estimate: what a sampler calls; conditioning and guidance are closed over."""
Predict: TypeAlias = "Callable[[Tensor, Tensor, Sequence[Cond]], list[Estimate]]"
"""(x, t, branches) -> one Estimate a branch: what a guidance calls; the core batches what can be batched."""
OnStep: TypeAlias = "Callable[[int, Tensor, Tensor, Tensor], Tensor | None]"
"""(index, t (), x at level t, x0): called after each step; a returned tensor replaces x; raise to cancel."""


class Reconstruction(NamedTuple):
    """One training pass of a first stage: `image` (B, c, H, W), not clamped; `regularization` (), unweighted.

    `logs`: detached tensors, which are averaged over micro-batches and processes. Those with axes are then handed to
    the stage's ``diagnostics(logs)``, where it has one, which makes scalars of them.
    """

    image: Tensor
    regularization: Tensor
    logs: Mapping[str, Tensor] = EMPTY


# ---------------------------------------------------------------------------------------------------------------
# The stable four


@runtime_checkable
class FirstStage(Protocol):
    """Images to latents and back; a ``torch.nn.Module``. Stable API.

    It owns its latent normalisation: what :meth:`latents` returns is close to N(0, 1), and no factor lives elsewhere.
    Its config has the attribute `latent`, without torch. Ownership of device, mode, freezing and parameters: see
    :mod:`ldm_core.contracts`.
    """

    latent: LatentSpec
    __init__ = _cooperative_init  # type: ignore[misc]

    @abstractmethod
    def encode_moments(self, x: Tensor) -> Tensor:
        """Images (B, c, H, W) in [-1, 1] -> moments (B, M, *s): deterministic, raw, cacheable."""
        ...

    @abstractmethod
    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Moments (B, M, *s) -> normalised latents (B, C, *s); `streams` None = the mode, else one draw each."""
        ...

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B, C, *s) -> images (B, c, H, W), not clamped; a VQ stage quantises first."""
        ...

    @abstractmethod
    def project(self, z: Tensor) -> Tensor:
        """The nearest latent that can be meant: VQ codes, pixels clamped; a KL stage returns `z`."""
        ...

    @abstractmethod
    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and std (C,) of raw latents, measured by the core after training; saved with the weights."""
        ...


@runtime_checkable
class Conditioner(Protocol):
    """Turns a batch into conditioning; a ``torch.nn.Module``. Stable API.

    `spec` holds the widths that it writes, `reads` the batch keys that it touches. Its config has the property
    `reads` and the method ``spec(latent) -> CondSpec``, both without torch; optionally ``from_data(info) -> config``,
    which fills numbers in from the data (class counts), ``check(site) -> Iterable[str]``, one line per misfit, and
    ``taken_sizes(size, latent)``, batch key -> a size (h, w) other than the images' at which it is taken as it is.
    A conditioner may have ``fit(examples)``, called once before training, to learn from the annotations at hand (a
    tokenizer), and ``class_tables``, parameter name -> (batch key, axis) of tables with a row a class, so that
    finetuning finds classes by name, and ``known(example)``, the pixels of a picture that stay as they are
    (:mod:`ldm_core.known_pixels`). A config whose part brings trained weights says so by ``pretrained = True``, one
    whose part stays as it is unless a recipe says ``train: true``, by ``trained_by_default = False``.
    Ownership of device, mode, freezing and parameters: see :mod:`ldm_core.contracts`.
    """

    spec: CondSpec
    reads: tuple[str, ...]
    __init__ = _cooperative_init  # type: ignore[misc]

    @abstractmethod
    def encode(self, batch: Batch) -> Cond:
        """A collated batch with the keys `reads` -> a bundle of B rows. Row i depends on example i alone."""
        ...

    @abstractmethod
    def null(self, like: Cond) -> Cond:
        """The bundle that stands for "no condition": same parts, shapes, dtype and device as `like`, an encode of
        this conditioner. Returns `like` itself where guidance must not drop it (masks, low-resolution images)."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """The network F; a ``torch.nn.Module``. Stable API.

    Built from ``factory(config, site)``, where ``site.latent`` and ``site.cond`` say the widths. It knows nothing of
    alpha and sigma: `noise_level` is what the schedule tells it. It may have ``prepare(cond) -> Cond``, called once
    a run for each bundle as the network is handed it, to put what does not depend on x into ``extras``; and
    ``recompute_blocks()``, a list of the modules in it whose activations a trainer may drop and compute again in the
    backward pass. Ownership of device, mode, freezing and parameters: see :mod:`ldm_core.contracts`.
    """

    __init__ = _cooperative_init  # type: ignore[misc]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # nn.Module brings a placeholder `forward` that would hide a forgotten one until the first call.
        super().__init_subclass__(**kwargs)
        if getattr(cls.forward, "__name__", "") == "_forward_unimplemented":
            cls.forward = Denoiser.forward  # type: ignore[method-assign]

    @abstractmethod
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, *s), noise_level (B,) -> (B, C or more, *s): the first C channels are F, the rest its own."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Steps from noise to data; any object, no module needed. Stable API.

    It knows neither conditioning nor guidance nor first stage; its history is local to :meth:`sample`.
    """

    __init__ = _cooperative_init  # type: ignore[misc]

    @abstractmethod
    def sample(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        *,
        streams: Streams | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """x (B, C, *s) at times[0] -> x at times[-1], `times` strictly decreasing; inputs stay unchanged.

        `streams` is required when noise is drawn (ValueError). May divide by sigma(times[i]), i < last, never by
        alpha without saying so.
        """
        ...


# ---------------------------------------------------------------------------------------------------------------
# Provisional until 1.0


@runtime_checkable
class NoiseSchedule(Protocol):
    """x_t = alpha(t) x0 + sigma(t) eps, t in [0, t_max]. Provisional.

    Tables have t = index + 1, and t = 0 is data. alpha(0) = 1, sigma(0) = 0, sigma / alpha increases; alpha may be 0
    at t_max (rectified flow, zero terminal SNR). Coefficients are float64.
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
        """What the network is told at t: the index of a table, ln(sigma) / 4, 1000 t."""
        ...

    @abstractmethod
    def draw(self, u: Tensor) -> Tensor:
        """Uniform u in [0, 1) -> training times in (0, t_max], same shape; a table gives whole numbers."""
        ...


@runtime_checkable
class Parameterization(Protocol):
    """What F predicts, as x0 = c_skip x + c_out F(c_in x). Provisional."""

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma) -> (c_skip, c_out, c_in), elementwise."""
        ...


@runtime_checkable
class Objective(Protocol):
    """How times are drawn and errors weighed. Provisional.

    It may be a module with parameters of its own, which are trained with the model but do not travel with it, and may
    have ``prepare(model)``, called once before the optimizer is made: there it can make what the model decides.
    """

    __init__ = _cooperative_init  # type: ignore[misc]

    @abstractmethod
    def loss(self, model: Model, x0: Tensor, cond: Cond, *, streams: Streams) -> LossOutput:
        """x0 (B, C, *s) -> a loss per example."""
        ...


@runtime_checkable
class Guidance(Protocol):
    """Combines the model's estimates under several conditionings. Provisional.

    Its config says with `needs_null` (bool) whether it calls the model without some condition, and with `conditioners`,
    where it tells any apart, their names, which the check holds to the recipe. Nothing is kept on it between calls but
    what is the same for all of them; what it makes of a run's batch is kept by ``conditions.again``.
    """

    @abstractmethod
    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the guided estimate."""
        ...


@runtime_checkable
class TimeGrid(Protocol):
    """Where a sampler evaluates the schedule. Provisional."""

    @abstractmethod
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        """Strictly decreasing float64 times; times[-1] is the level of the output (0, or legacy 1). `steps`
        intervals, or more where a config's `uneven` asks for it; a rule that cannot give that number raises ValueError
        naming the nearest that it can."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """LoRA, ControlNet, IP-Adapter, textual inversion: changes a model by forward hooks. Provisional."""

    __init__ = _cooperative_init  # type: ignore[misc]

    @abstractmethod
    def attach(self, model: Model) -> None:
        """Hook into `model`; base modules, state keys and weights stay as they are."""
        ...

    @abstractmethod
    def detach(self) -> None:
        """Take all hooks away; the model is bit for bit what it was."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """Examples by index, torch-free. Provisional.

    `keys` name -> geometry: ``image`` (c, H, W) uint8 | ``map`` (..., H, W) | ``boxes`` (N, 4) x, y, w, h in [0, 1] |
    ``per_box`` (N, ...) | ``value``. `classes` and `class_names`: per key, where known.

    Optional: `image_sizes() -> (N, 2)`, height and width of each picture, where that is known without decoding it;
    `max_bad`, the share of examples that may be unreadable; `widths`, key -> length of its vectors; `describe()`, a
    line about the data; `lacks`, key -> why it is not offered and what to do.
    """

    keys: Mapping[str, str]
    classes: Mapping[str, int]
    class_names: Mapping[str, tuple[str, ...]]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    @abstractmethod
    def select(self, keys: Iterable[str]) -> Dataset:
        """A view whose examples decode and hold only `keys`."""
        ...

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of what is read: equal for equal data, another for other data."""
        ...


@runtime_checkable
class Observer(Protocol):
    """Told of a run's progress through the hooks of :mod:`ldm_core.hookspecs`. Provisional."""
