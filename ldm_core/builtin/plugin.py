"""The core's own components, through the same door as everyone else's."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl

_LDM = "Rombach et al. 2022, arXiv 2112.10752"
_DDPM = "Ho et al. 2020, arXiv 2006.11239"
_DIFFUSION = "ldm_core.builtin.diffusion.config"
_RUNTIMES = "ldm_core.builtin.runtimes"
_TABLES = ("vp_ldm", "vp_churches", "vp_layout", "vp_rdm", "vp_sd", "vp_cosine")


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """The built-in components. Their configs are imported where more than the commands is asked for."""
    if kinds is not None and set(kinds) == {"command"}:
        return _commands()
    return [*_networks(), *_forward_process(), *_sampling(), *_data(), *_formats(), *_commands()]


def _networks() -> list[Component]:
    from ldm_core.builtin.unet import config

    return [
        Component(
            kind="first_stage",
            name="identity",
            config="ldm_core.builtin.identity.config:IdentityConfig",
            factory="ldm_core.builtin.identity.stage:IdentityFirstStage",
            summary="pixels as latents: diffusion in pixel space (LDM-1)",
            source=_LDM,
        ),
        Component(
            kind="stage_objective",
            name="reconstruction",
            config="ldm_core.builtin.reconstruction.config:ReconstructionConfig",
            factory="ldm_core.builtin.reconstruction.objective:ReconstructionObjective",
            summary="L1, L2 or Huber on pixels, and the stage's regularisation",
        ),
        Component(
            kind="denoiser",
            name="unet",
            config=config.UNetConfig,
            factory="ldm_core.builtin.unet.network:UNet",
            summary="time-conditional U-Net with cross-attention, concat and vector conditioning",
            source=f"{_LDM}; Dhariwal & Nichol 2021, arXiv 2105.05233",
            presets=config.PRESETS,
            small=config.small,
        ),
    ]


def _forward_process() -> list[Component]:
    return [
        Component(
            kind="schedule",
            name="vp",
            config=f"{_DIFFUSION}:VPConfig",
            factory="ldm_core.builtin.diffusion.schedules:VPSchedule",
            summary="variance-preserving table: alpha² + sigma² = 1",
            source=_DDPM,
            presets=dict.fromkeys(_TABLES, f"{_DIFFUSION}:VP_PRESETS"),
        ),
        Component(
            kind="parameterization",
            name="eps",
            config=f"{_DIFFUSION}:EpsConfig",
            factory="ldm_core.builtin.diffusion.parameterizations:EpsParameterization",
            summary="the network predicts the noise",
            source=_DDPM,
        ),
        Component(
            kind="parameterization",
            name="x0",
            config=f"{_DIFFUSION}:X0Config",
            factory="ldm_core.builtin.diffusion.parameterizations:X0Parameterization",
            summary="the network predicts the clean latents",
            source=_DDPM,
        ),
        Component(
            kind="parameterization",
            name="v",
            config=f"{_DIFFUSION}:VConfig",
            factory="ldm_core.builtin.diffusion.parameterizations:VParameterization",
            summary="the network predicts the velocity",
            source="Salimans & Ho 2022, arXiv 2202.00512",
        ),
        Component(
            kind="objective",
            name="simple",
            config=f"{_DIFFUSION}:SimpleConfig",
            factory="ldm_core.builtin.diffusion.objectives:SimpleObjective",
            summary="L1, L2 or Huber; min-SNR, ELBO term, learned log-variance; uniform or logit-normal times",
            source=f"{_DDPM}, equation 14",
        ),
    ]


def _sampling() -> list[Component]:
    return [
        Component(
            kind="sampler",
            name="ddpm",
            config=f"{_DIFFUSION}:DDPMConfig",
            factory="ldm_core.builtin.diffusion.ddpm:DDPMSampler",
            summary="ancestral sampling on any grid",
            source=_DDPM,
        ),
        Component(
            kind="guidance",
            name="none",
            config=f"{_DIFFUSION}:NoGuidanceConfig",
            factory="ldm_core.builtin.diffusion.guidance:NoGuidance",
            summary="the conditional estimate as it is",
        ),
        *_time_grids(),
        Component(
            kind="runtime",
            name="torch",
            config=f"{_RUNTIMES}.config:TorchConfig",
            factory=f"{_RUNTIMES}.eager:TorchRuntime",
            summary="torch's own calls",
        ),
        Component(
            kind="runtime",
            name="compiled",
            config=f"{_RUNTIMES}.config:CompiledConfig",
            factory=f"{_RUNTIMES}.compiled:CompiledRuntime",
            summary="each block compiled by torch.compile; needs a C++ compiler on a CPU",
        ),
    ]


def _time_grids() -> list[Component]:
    return [
        Component(
            kind="time_grid",
            name="legacy",
            config=f"{_DIFFUSION}:LegacyConfig",
            factory="ldm_core.builtin.diffusion.time_grids:LegacyGrid",
            summary="the published LDM samplers' grid; ends one level above the data",
            source=_LDM,
        ),
        Component(
            kind="time_grid",
            name="leading",
            config=f"{_DIFFUSION}:LeadingConfig",
            factory="ldm_core.builtin.diffusion.time_grids:EvenGrid",
            summary="even steps from the data's end",
            source="Lin et al. 2024, arXiv 2305.08891, table 2",
        ),
        Component(
            kind="time_grid",
            name="trailing",
            config=f"{_DIFFUSION}:TrailingConfig",
            factory="ldm_core.builtin.diffusion.time_grids:EvenGrid",
            summary="even steps from the noise's end",
            source="Lin et al. 2024, arXiv 2305.08891, table 2",
        ),
        Component(
            kind="time_grid",
            name="linspace",
            config=f"{_DIFFUSION}:LinspaceConfig",
            factory="ldm_core.builtin.diffusion.time_grids:EvenGrid",
            summary="even steps from end to end",
            source="Lin et al. 2024, arXiv 2305.08891, table 2",
        ),
    ]


def _data() -> list[Component]:
    return [
        Component(
            kind="dataset",
            name="shapes",
            config="ldm_core.builtin.shapes.config:ShapesConfig",
            factory="ldm_core.builtin.shapes.dataset:ShapesDataset",
            summary="embedded scenes of coloured shapes with caption, boxes, label map and class",
        ),
        Component(
            kind="dataset",
            name="tar",
            config="ldm_core.builtin.readers.config:TarConfig",
            factory="ldm_core.builtin.readers.tar:TarDataset",
            summary="WebDataset tars at any URL",
            source="webdataset.github.io, the format",
        ),
        Component(
            kind="dataset",
            name="folder",
            config="ldm_core.builtin.readers.config:FolderConfig",
            factory="ldm_core.builtin.readers.folder:FolderDataset",
            summary="image folders with class sub-folders, captions beside, metadata.jsonl or metadata.csv",
        ),
    ]


def _formats() -> list[Component]:
    return [
        Component(
            kind="codec",
            name="ldm",
            config="ldm_core.builtin.ldm_format.config:LdmCodecConfig",
            factory="ldm_core.builtin.ldm_format.codec:LdmCodec",
            summary="this package's own files: a run's folder, first_stage.safetensors, model.safetensors",
        ),
    ]


def _commands() -> list[Component]:
    listed = {
        "Train and sample": {
            "train": "Train without sampling at the end.",
            "sample": "Draw images from a trained model.",
            "reconstruct": "Pass pictures through a first stage and back, with their PSNR.",
            "encode": "Encode a data set once, for runs to train on.",
        },
        "Weights": {
            "convert": "Convert weights from one format to another.",
            "inspect": "Describe a file or folder of weights, without running anything of it.",
            "ema": "Write a trained model with averages of another width.",
        },
        "Look up and extend": {
            "check": "Check and print the resolved recipe, without importing torch.",
            "show": "Print one component, preset, recipe or section of settings.",
            "plugins": "List what is installed, from which distribution, and what is broken.",
            "new": "Write a small plugin distribution that passes its own tests.",
            "completion": "Print the script that lets a shell complete commands, options and settings.",
        },
    }
    return [
        Component(kind="command", name=name, group=group, summary=line, factory=f"ldm_core.cli.commands.{name}:{name}")
        for group, lines in listed.items()
        for name, line in lines.items()
    ]
