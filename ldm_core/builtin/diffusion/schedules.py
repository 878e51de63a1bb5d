"""The variance-preserving noise schedule: a table, interpolated between its entries."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.contracts import NoiseSchedule, Site


class VPSchedule(NoiseSchedule):
    """A table of T levels with alpha² + sigma² = 1 (Ho et al. 2020), in float64.

    Level t is the table's index t - 1, and t = 0 is data. Between whole t >= 1 the log signal-to-noise ratio,
    ln(alpha²/sigma²), is linear in t; below t = 1, where it has no bound, sigma/alpha is linear from 0, and above
    t = T - 1 of a table without signal at its end alpha/sigma is linear to 0. Outside [0, T] the nearest end holds.
    """

    def __init__(self, config: VPConfig, site: Site | None = None) -> None:
        self.table_steps: int = config.steps
        self.t_max = float(config.steps)
        self._zero_terminal = config.zero_terminal_alpha
        self.alphas_cumprod = torch.tensor(config.alphas_cumprod(), dtype=torch.float64)
        """alpha² of the table (T,), float64: index i is level t = i + 1."""
        square = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        log_ratio = 0.5 * torch.log((1 - square) / square)  # ln(sigma / alpha); -inf at data, inf without signal
        self._tables = {torch.device("cpu"): torch.stack([square.sqrt(), (1 - square).sqrt(), log_ratio])}

    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient of x0 at t in [0, T], any shape; float64."""
        return self._at(t, 0, -2)

    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient of eps at t in [0, T], any shape; float64."""
        return self._at(t, 1, 2)

    def noise_level(self, t: Tensor) -> Tensor:
        """The table's index, t - 1, float32 (exact at whole t); 0 below t = 1."""
        return (t.double() - 1).clamp(0, self.t_max - 1).float()

    def draw(self, u: Tensor) -> Tensor:
        """Uniform u in [0, 1) -> whole levels 1..T, all equally likely; float64."""
        return (u.double() * self.t_max).floor().clamp(max=self.t_max - 1) + 1

    def _at(self, t: Tensor, row: int, power: int) -> Tensor:
        """The table's `row`; between its entries the root of the sigmoid of `power` ln(sigma / alpha)."""
        table = self._tables.get(t.device)
        if table is None:
            table = self._tables[t.device] = self._tables[torch.device("cpu")].to(t.device)
        log_ratios = table[2]
        t = t.double().clamp(0, self.t_max)
        below = t.floor().long()
        above = (below + 1).clamp(max=self.table_steps)
        part = t - below
        log_ratio = torch.lerp(log_ratios[below], log_ratios[above], part)
        # Below t = 1: ratio = t * ratio(1).
        log_ratio = torch.where(below == 0, part.log() + log_ratios[1], log_ratio)
        if self._zero_terminal:
            log_ratio = torch.where(above == self.table_steps, log_ratios[-2] - (1 - part).log(), log_ratio)
        # Of a whole t the table's own value, to the bit.
        return torch.where(part == 0, table[row][below], torch.sigmoid(power * log_ratio).sqrt())
