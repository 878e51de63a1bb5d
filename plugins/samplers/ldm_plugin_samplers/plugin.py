"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl

_PACKAGE = "ldm_plugin_samplers"
_EDM = "Karras et al. 2022, arXiv 2206.00364"
_DPM = "Lu et al. 2022, arXiv 2211.01095"


@hookimpl
def ldm_components() -> list[Component]:
    """The samplers, and the time grids that go by the noise of a level."""
    return [*_samplers(), *_time_grids()]


def _sampler(name: str, conf: str, factory: str, summary: str, source: str) -> Component:
    return Component(
        kind="sampler",
        name=name,
        config=f"{_PACKAGE}.config:{conf}",
        factory=f"{_PACKAGE}.{factory}",
        summary=summary,
        source=source,
    )


def _grid(name: str, conf: str, factory: str, summary: str, source: str) -> Component:
    return Component(
        kind="time_grid",
        name=name,
        config=f"{_PACKAGE}.config:{conf}",
        factory=f"{_PACKAGE}.time_grids:{factory}",
        summary=summary,
        source=source,
    )


def _samplers() -> list[Component]:
    return [
        _sampler(
            "plms",
            "PLMSConfig",
            "plms:PLMSSampler",
            "pseudo linear multistep, as published with LDM; second order",
            "Liu et al. 2022, arXiv 2202.09778, equations 11 and 12",
        ),
        _sampler("euler", "EulerConfig", "euler:EulerSampler", "Euler's method; first order", _EDM),
        _sampler(
            "euler_ancestral",
            "EulerAncestralConfig",
            "euler_ancestral:EulerAncestralSampler",
            "Euler's method with fresh noise; first order",
            "Song et al. 2021, arXiv 2011.13456, appendix F; k-diffusion",
        ),
        _sampler(
            "heun",
            "HeunConfig",
            "heun:HeunSampler",
            "Heun's method; second order, two evaluations a step",
            f"{_EDM}, algorithm 1",
        ),
        _sampler(
            "dpm_solver_pp_2m",
            "DPMSolverPP2MConfig",
            "dpm_solver_pp_2m:DPMSolverPP2MSampler",
            "DPM-Solver++ 2M; second order",
            f"{_DPM}, algorithm 2",
        ),
        _sampler(
            "dpm_solver_pp_2m_sde",
            "DPMSolverPP2MSDEConfig",
            "dpm_solver_pp_2m:DPMSolverPP2MSampler",
            "DPM-Solver++ 2M with fresh noise",
            f"{_DPM}, section 4.3",
        ),
        _sampler(
            "unipc",
            "UniPCConfig",
            "unipc:UniPCSampler",
            "unified predictor-corrector of order 1 to 3",
            "Zhao et al. 2023, arXiv 2302.04867",
        ),
    ]


def _time_grids() -> list[Component]:
    return [
        _grid("karras", "KarrasConfig", "RatioGrid", "an even power of the noise level", f"{_EDM}, equation 5"),
        _grid(
            "log_snr",
            "LogSNRConfig",
            "RatioGrid",
            "an even log signal-to-noise ratio",
            "Lu et al. 2022, arXiv 2206.00927, section 3.4",
        ),
        _grid(
            "shifted",
            "ShiftedConfig",
            "ShiftedGrid",
            "even steps shifted towards noise",
            "Esser et al. 2024, arXiv 2403.03206, equation 23",
        ),
        _grid(
            "quad",
            "QuadConfig",
            "QuadGrid",
            "quadratic spacing of the published DDIM code; ends one level above the data",
            "Song et al. 2020, arXiv 2010.02502, appendix D.2",
        ),
    ]
