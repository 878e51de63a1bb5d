"""Recognition of a CompVis file: its parts from shapes, all else from other sources. Imports no torch.

Facts beyond shapes come, the first one speaking: from the user, from a configuration (in the metadata or beside the
file), from the schedule's buffers, from the table of released models. The rest is listed as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_core import storage
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts.codec import Source, TensorFile, overlay
from ldm_core.errors import CheckpointError
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout.state_dict import Layout, layout_of, shapes_of
from ldm_plugin_compvis.model_config.read import Hints, hints_of
from ldm_plugin_compvis.recognise.evidence import Evidence
from ldm_plugin_compvis.recognise.found import Found
from ldm_plugin_compvis.recognise.given import conditioner_named
from ldm_plugin_compvis.recognise.model import found_model
from ldm_plugin_compvis.recognise.parts import stage_recipe
from ldm_plugin_compvis.shapes import released as fingerprints
from ldm_plugin_compvis.shapes.autoencoder import AutoencoderShapes, NotThisAutoencoder, autoencoder_shapes
from ldm_plugin_compvis.shapes.conditioner import NotThisConditioner, conditioner_shapes
from ldm_plugin_compvis.shapes.unet import NotThisUNet, unet_shapes


def examine(source: Source, config: CompVisConfig) -> Found | None:
    """Recognise a source; None for another format, CheckpointError for a U-Net or autoencoder under CompVis' names, but
    impossible for the parts here."""
    if source.folder:
        return None
    file = source.tensors()
    layout = layout_of(file)
    if layout is None:
        return None
    if isinstance(options := source.given.get("codec"), Mapping):
        config = structure({**unstructure(config), **options}, CompVisConfig, "codec")
    given = {k: v for k, v in source.given.items() if k != "codec"}
    shapes = shapes_of(file)
    try:
        if layout.embedders > 1:
            raise NotThisConditioner(
                f"it has {layout.embedders} conditioners side by side (as Stable Diffusion XL has); one is read here"
            )
        unet = unet_shapes(layout.of_denoiser(shapes)) if layout.denoiser is not None else None
        stage = autoencoder_shapes(layout.of_first_stage(shapes)) if layout.first_stage is not None else None
        hints = hints_of(source, file, unet)
        if unet is None:
            assert stage is not None
            return _first_stage(given, config, file, layout, shapes, stage, hints)
        conditioner = conditioner_shapes(
            layout.of_conditioner(shapes), unet.concat, unet.crossattn, hints.cond_key, hints.text_layer
        )
        if conditioner is not None:
            for use in set(conditioner_named(given)) & set(conditioner.candidates):
                conditioner = conditioner.chosen(use)
    except (NotThisUNet, NotThisAutoencoder, NotThisConditioner) as error:
        raise CheckpointError(f"{storage.shown(source.url)}: {error}") from None
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"{storage.shown(source.url)}: has CompVis' names, but not their shapes ({type(error).__name__}: {error})"
        ) from None
    evidence = Evidence(
        given=given,
        config=config,
        file=file,
        layout=layout,
        shapes=shapes,
        unet=unet,
        stage=stage,
        conditioner=conditioner,
        hints=hints,
    )
    return found_model(evidence)


def _first_stage(
    given: Mapping[str, Any],
    config: CompVisConfig,
    file: TensorFile,
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    stage: AutoencoderShapes,
    hints: Hints,
) -> Found:
    name = fingerprints.stage_row(stage)
    scale = config.scale_factor or hints.scale_factor or 1.0
    notes = list(hints.notes)
    own = hints.normalization
    normalization = own if own and len(own[0]) == stage.latent_channels and not config.scale_factor else None
    if scale == 1.0 and normalization is None and stage.use == "kl_ae":
        notes.append(
            "the latents stay as they are: a first stage's file has no scale factor; codec.scale_factor=0.18215 is "
            "that of the text models on kl_f8"
        )
    recipe = {
        "image_size": 256,
        "image_channels": stage.image_channels,
        "first_stage": stage_recipe(stage),
    }
    recipe = overlay(recipe, {k: v for k, v in hints.recipe.items() if k in recipe})
    return Found(
        file=file,
        layout=layout,
        shapes=shapes,
        unet=None,
        stage=stage,
        conditioner=None,
        what=f"first stage {name}" if name else f"first stage of factor {stage.factor} ({stage.use})",
        recipe=overlay(recipe, given),
        unknown={},
        scale_factor=scale,
        normalization=normalization,
        notes=tuple(notes),
    )
