"""Windows over the latents: each call of the network becomes calls on windows, whose outputs are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import Adapter, Cond, DenoiserConfig, DiffusionModel, PartAnswers, Site, evaluation
from ldm_core.contracts.configs import of
from ldm_core.contracts.current import Evaluation, during
from ldm_core.errors import ConfigError
from ldm_core.nn.hooks import Surrounding, surround
from ldm_core.nn.tiles.windows import Place, places, weights
from ldm_plugin_multidiffusion.config import MultiDiffusionConfig

_MOST_BUNDLES = 64  # kept for a run; a guidance with new ones at each step must not fill the memory


@attrs.define
class _Bundles:
    """The bundles of windows, by that of the whole and the number of the call."""

    made: dict[tuple[int, int], tuple[Cond, Cond]] = attrs.field(factory=dict)


class MultiDiffusion(Adapter):
    """The denoiser's output on latents larger than a window: the average of its outputs on overlapping windows.

    The weights fall smoothly to a window's sides (half a cosine over the overlap), so that no window shows. As
    x0 = c_skip x + c_out F, with the same coefficients in each window, the average of F is that of the estimates of x0:
    samplers, guidances and parameterizations see nothing of the windows. Planes beside the latents (`concat`) and
    residuals of sites are cut along; tokens, vectors and extras are shared. Latents within a window are left alone, bit
    for bit.
    """

    def __init__(self, config: MultiDiffusionConfig, site: Site | None = None) -> None:
        self.config = config
        self._step = 1
        self._handle: Surrounding | None = None

    def attach(self, model: DiffusionModel) -> None:
        """Stand around the denoiser; ConfigError for a window that its factor does not divide."""
        self.detach()
        self._step = of(DenoiserConfig, of(PartAnswers, model.denoiser).config).factor
        if any(side % self._step for side in self.config.sides):
            raise ConfigError(
                f"multidiffusion: window {self.config.window} is not divisible by the denoiser's factor {self._step}; "
                f"set a multiple of it"
            )
        self._handle = surround(model.denoiser, self._call)

    def detach(self) -> None:
        """Leave the denoiser alone."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _call(self, forward: Callable[..., Tensor], x: Tensor, level: Tensor, cond: Cond) -> Tensor:
        size = tuple(x.shape[2:])
        sides = tuple(min(side, length) for side, length in zip(self.config.sides, size, strict=True))
        if sides == size:
            return forward(x, level, cond)
        found = list(places(size, sides, self.config.overlap, self._step))
        some = max(self.config.batch // len(x), 1)
        weight, now = weights(sides, self.config.overlap).to(x), evaluation()
        out: Tensor | None = None
        total = x.new_zeros(size)
        for number in range(0, len(found), some):
            windows = found[number : number + some]
            made = self._windows(forward, x, level, self._bundle(cond, windows, size, number, now), windows, now)
            out = made[0].new_zeros((*made[0].shape[:2], *size), dtype=x.dtype) if out is None else out
            for place, part in zip(windows, made, strict=True):
                out[:, :, place[0], place[1]] += part * weight
                total[place] += weight
        assert out is not None
        return out / total

    def _windows(
        self,
        forward: Callable[..., Tensor],
        x: Tensor,
        level: Tensor,
        cond: Cond,
        windows: Sequence[Place],
        now: Evaluation | None,
    ) -> Sequence[Tensor]:
        """The outputs of some windows, in one call of the network."""
        inside = torch.cat([x[:, :, rows, columns] for rows, columns in windows])
        levels = torch.cat([level] * len(windows))
        if now is None:
            made = forward(inside, levels, cond)
        else:
            at = now._replace(
                cond=cond, noise_level=levels, t=torch.cat([now.t] * len(windows)), grid=tuple(inside.shape[2:])
            )
            with during(at):
                made = forward(inside, levels, cond)
        return made.chunk(len(windows))

    def _bundle(
        self, cond: Cond, windows: Sequence[Place], size: Sequence[int], number: int, now: Evaluation | None
    ) -> Cond:
        """The bundle of some windows; in a run the same object at each step, for those who keep things by it."""
        if now is None or now.run is None:
            return _cut(cond, windows, size)
        kept = now.run.state(self, _Bundles).made
        key = (id(cond), number)
        if key not in kept:
            if len(kept) >= _MOST_BUNDLES:  # the first ones stay: each is met again at the next step, in turn
                return _cut(cond, windows, size)
            kept[key] = cond, _cut(cond, windows, size)  # the whole one is held, so that its id stays its own
        return kept[key][1]


def _cut(cond: Cond, windows: Sequence[Place], size: Sequence[int]) -> Cond:
    """`cond` for windows that follow each other along B: planes and residuals cut, all else repeated."""

    def parts(name: str, value: Tensor) -> Tensor:
        if name == "concat":
            return torch.cat([value[:, :, rows, columns] for rows, columns in windows])
        if name.startswith("residuals/") and value.dim() == 2 + len(size):
            scaled = [_scaled(name, place, value.shape[2:], size) for place in windows]
            return torch.cat([value[:, :, rows, columns] for rows, columns in scaled])
        return torch.cat([value] * len(windows))

    return cond.unflat({name: parts(name, value) for name, value in cond.flat().items()})


def _scaled(name: str, place: Place, own: Sequence[int], size: Sequence[int]) -> Place:
    """A window on the coarser grid of a site."""
    out = []
    for part, mine, whole in zip(place, own, size, strict=True):
        factor = math.ceil(whole / mine)
        if mine * factor != whole or part.start % factor or part.stop % factor:
            raise ConfigError(
                f"multidiffusion: the {name.replace('/', ' of site ')} are {mine} cells along latents of {whole}, and "
                f"a window from {part.start} to {part.stop} does not fall on them; choose a window and an overlap that "
                f"{factor} divides"
            )
        out.append(slice(part.start // factor, part.stop // factor))
    return out[0], out[1]
