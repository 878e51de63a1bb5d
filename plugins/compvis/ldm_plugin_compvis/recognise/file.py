"""What a CompVis file is: its parts from shapes, and all else from where it can be known. Imports no torch.

What shapes do not say comes, the first that speaks: from the user, from a configuration (in the metadata or beside the
file), from the schedule's buffers, from the table of released models. What nothing says is listed as unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.builtin.diffusion.config import VP_PRESETS
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts.codec import Source, TensorFile, overlay
from ldm_core.errors import CheckpointError
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout import schedule_tables as schedules
from ldm_plugin_compvis.layout.state_dict import Layout, layout_of, shapes_of
from ldm_plugin_compvis.model_config.read import Hints, hints_of
from ldm_plugin_compvis.recognise.found import Found
from ldm_plugin_compvis.recognise.given import conditioner_named
from ldm_plugin_compvis.shapes import released as fingerprints
from ldm_plugin_compvis.shapes.autoencoder import AutoencoderShapes, NotThisAutoencoder, autoencoder_shapes
from ldm_plugin_compvis.shapes.conditioner import ConditionerShapes, NotThisConditioner, conditioner_shapes
from ldm_plugin_compvis.shapes.unet import NotThisUNet, UNetShapes, unet_shapes

NAMES = {"clip_text": "text"}
"""What conditioners are called in a recipe, where that is not their component's name."""
MASKED: Mapping[str, Any] = {"hole": 0.0, "outside": 0.0}
"""How Stable Diffusion gives a masked picture to its U-Net, beside the text."""
RETRIEVED = "nix"
"""What the configurations of retrieval-augmented diffusion call their condition, vectors of length 1."""
_LONGEST_TABLE = 100_000
_SD2_STEPS = {"875000": ("eps", 512), "110000": ("v", 768)}
"""Training steps that stand in the released files of Stable Diffusion 2.0 (base) and 2.1: what they predict."""


def examine(source: Source, config: CompVisConfig) -> Found | None:
    """Recognise a source; None where it is another format, CheckpointError where it is a U-Net or autoencoder under
    CompVis' names that the parts here cannot be."""
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
    return _Model(given, config, file, layout, shapes, unet, stage, conditioner, hints).found()


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def _stage_recipe(stage: AutoencoderShapes) -> dict[str, Any]:
    return {"use": fingerprints.stage_row(stage) or stage.use, **_plain(stage.fields)}


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
        "first_stage": _stage_recipe(stage),
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


@attrs.define
class _Model:
    """Puts a model's recipe together, a step for each thing that shapes do not say."""

    given: Mapping[str, Any]
    config: CompVisConfig
    file: TensorFile
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]
    unet: UNetShapes
    stage: AutoencoderShapes | None
    conditioner: ConditionerShapes | None
    hints: Hints
    row: fingerprints.Row | None = None
    recipe: dict[str, Any] = attrs.field(factory=dict)
    unknown: dict[str, Sequence[Any]] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)

    def found(self) -> Found:
        stage = None if self.stage is None else fingerprints.stage_row(self.stage)
        has_conditioner = self.conditioner is not None and bool(self.layout.of_conditioner(self.shapes))
        asked = self.conditioner.use if self.conditioner is not None and has_conditioner else ""
        self.row = fingerprints.row_of(self.unet, stage, asked)
        if self.hints.where:
            self.notes.append(f"settings that shapes do not say come from {self.hints.where}")
        elif self.row:
            self.notes.append(f"settings that shapes do not say are those of: {self.row.what}")
        if self.row and self.row.hint:
            self.notes.append(self.row.hint)
        if self.stage is not None:
            self.recipe["image_channels"] = self.stage.image_channels
            self.recipe["first_stage"] = _stage_recipe(self.stage)
        self._denoiser()
        self._conditioners(has_conditioner)
        self._schedule()
        self._prediction()
        self._image_size()
        loss = self.row.loss if self.row else ""
        if loss:
            self.recipe["objective"] = {"use": "simple", "loss": loss}
        recipe = overlay(overlay(self.recipe, _known_parts(self.hints.recipe)), self.given)
        scale = self._scale()
        if self.stage is None:
            self.unknown = {k: v for k, v in self.unknown.items() if k.startswith("denoiser")}
            recipe.pop("conditioners", None)  # their weights are not here
        unknown = {k: v for k, v in self.unknown.items() if not _said(self.given, k) or self._beside(k, v)}
        return Found(
            file=self.file,
            layout=self.layout,
            shapes=self.shapes,
            unet=self.unet,
            stage=self.stage,
            conditioner=self.conditioner,
            what=self._what(),
            recipe=_counted(recipe, self.conditioner),
            unknown=unknown,
            scale_factor=scale,
            notes=(*self.notes, *self.hints.notes),
            class_names=self.hints.class_names,
            # a tensor of the file under this switch alone; files that this package wrote before hold one without
            scale_by_std="scale_factor" in self.shapes and (self.hints.scale_by_std or not self.hints.where),
        )

    def _beside(self, path: str, candidates: Sequence[Any]) -> bool:
        """Whether the user named conditioners, and none that the file could hold."""
        named = conditioner_named(self.given)
        return path == "conditioners" and bool(candidates) and not set(named) & set(candidates)

    def _what(self) -> str:
        if self.row is not None:
            return self.row.what if self.stage is not None else f"U-Net of: {self.row.what}"
        kind = "latent diffusion model" if self.stage is not None else "U-Net of a latent diffusion model"
        by = f", {self.conditioner.use}" if self.conditioner is not None else ""
        return f"{kind} ({self.unet.fields['channels']} channels{by})"

    def _denoiser(self) -> None:
        fields = dict(self.unet.fields)
        said = self.hints.recipe.get("denoiser", {})
        if self.row is not None:
            row = self.row.config
            fields |= {"attention": row.attention, "heads": row.heads, "head_channels": row.head_channels}
        elif not {"heads", "head_channels"} & set(said if isinstance(said, Mapping) else ()):
            self.unknown["denoiser.heads"] = self.unet.possible_heads
        self.recipe["denoiser"] = {"use": self.row.unet if self.row else "unet", **_plain(fields)}

    def _conditioners(self, has_weights: bool) -> None:
        if self.conditioner is not None and not has_weights and not self.unet.crossattn and self.row:
            self.conditioner = ConditionerShapes(
                use=self.row.conditioner, fields=self.conditioner.fields if "low" in self.row.conditioner else {}
            )
        found, unet = self.conditioner, self.unet
        served = 0
        rows: list[Any] = []
        if found is not None:
            fields = {**found.fields, **(self.row.conditioning if self.row else {})}
            if found.use == "clip_text":
                fields["train"] = False
            name = NAMES.get(found.use, found.use)
            rows.append({"use": found.use, "name": name, **_plain(fields)})
            if found.candidates:
                self.unknown["conditioners"] = found.candidates
            self.unknown |= {f"conditioners.{name}.{key}": values for key, values in found.asked.items()}
            rows_of_table = found.fields.get("classes", 0) + found.fields.get("null_class", False)
            if found.use == "class_label" and rows_of_table not in (1000, 1001):
                self.unknown[f"conditioners.{name}.null_class"] = (True, False)
            if found.use == "embedding":
                self._vectors(rows[0])
            latent = unet.latent_channels
            if found.use == "clip_text" and unet.concat == latent + 1:
                rows.append({"use": "masked_image", "name": "masked_image", **MASKED})
                served = latent + 1
            else:
                served = self._served(found)
        if unet.concat != served or unet.vector:
            what = f"{unet.concat} channels beside the latents" if unet.concat != served else "a vector"
            self.notes.append(f"its U-Net reads {what}, which no conditioner that is installed with it gives")
            self.unknown["conditioners"] = ()
        own = self.hints.recipe.get("conditioners")
        if isinstance(own, list) and own:
            rows = list(own)
            self.unknown = {k: v for k, v in self.unknown.items() if not k.startswith("conditioners")}
        self.recipe["conditioners"] = rows

    def _vectors(self, row: dict[str, Any]) -> None:
        self.notes.append("the file has no encoder: the condition is given as vectors (conditioner embedding)")
        if "normalize" not in row and self.hints.cond_key == RETRIEVED:
            row["normalize"] = True
        elif "normalize" not in row:
            self.notes.append(
                "whether each vector is divided by its length is not known: it is taken as it is given; "
                "conditioners.embedding.normalize=true divides, as retrieval-augmented diffusion models have it"
            )

    def _served(self, found: ConditionerShapes) -> int:
        """How many channels beside the latents a conditioner gives."""
        return int(
            {
                "masked_image": self.unet.latent_channels + 1,
                "low_resolution": found.fields.get("image_channels", 0),
                "semantic_map": found.fields.get("channels", 0),
            }.get(found.use, 0)
        )

    def _schedule(self) -> None:
        schedule: dict[str, Any] | str | None = None
        for name, products in (("betas", False), ("alphas_cumprod", True)):
            shape = self.shapes.get(name, ())
            if schedule is None and len(shape) == 1 and 0 < shape[0] <= _LONGEST_TABLE:
                table = [float(v) for v in self.file.read(name).double().tolist()]
                schedule = schedules.schedule_of(table, products=products)
                if schedule is None:
                    self.notes.append(f"no kind of schedule gives the stored {name}")
        if schedule is not None:
            # What the file holds counts more than a configuration beside it.
            self.hints = attrs.evolve(
                self.hints, recipe={k: v for k, v in self.hints.recipe.items() if k != "schedule"}
            )
        elif "schedule" not in self.hints.recipe:
            schedule = self.row.schedule if self.row else None
            if schedule is None:
                self.unknown["schedule"] = tuple(VP_PRESETS)
        if schedule is not None:
            self.recipe["schedule"] = schedule

    def _prediction(self) -> None:
        if "parameterization" in self.hints.recipe:
            return
        if "v_pred" in self.shapes:
            self.recipe["parameterization"] = "v"
            return
        steps = self.file.metadata.get("global_step", "")
        if self.row and self.row.parameterization:
            self.recipe["parameterization"] = self.row.parameterization
        elif self.row and steps in _SD2_STEPS:
            self.recipe["parameterization"] = _SD2_STEPS[steps][0]
            self.notes.append(f"step {steps} is that of the released model that predicts {_SD2_STEPS[steps][0]}")
        else:
            self.unknown["parameterization"] = ("eps", "v") if self.row else ("eps", "v", "x0")

    def _image_size(self) -> None:
        if "image_size" in self.hints.recipe:
            return
        if self.hints.latent_size and self.stage is not None:
            size = [n * self.stage.factor for n in self.hints.latent_size]
            self.recipe["image_size"] = size[0] if len(set(size)) == 1 else size
        elif self.row and self.row.image_size:
            self.recipe["image_size"] = self.row.image_size
        elif self.row:  # Stable Diffusion 2: the model that predicts v was trained on larger pictures
            said = overlay(overlay(self.recipe, self.hints.recipe), self.given).get("parameterization", "")
            name = said.get("use", "") if isinstance(said, Mapping) else said
            self.recipe["image_size"] = 768 if name == "v" else 512
        else:
            self.unknown["image_size"] = (256, 512, 768)

    def _scale(self) -> float:
        if self.config.scale_factor:
            return self.config.scale_factor
        if self.shapes.get("scale_factor") in ((), (1,)):
            value = float(self.file.read("scale_factor").double().reshape(()).item())
            said = self.hints.scale_factor
            if said and math.isclose(said, value, rel_tol=1e-6):
                return said  # the same number, and not rounded to single precision
            if 0 < value < math.inf:
                return value
        if self.hints.scale_factor:
            return self.hints.scale_factor
        if self.row is not None:
            return self.row.scale
        if self.stage is not None and self.stage.use == "vq_ae":
            self.notes.append("scale factor 1, as all released models on a codebook have")
        elif self.stage is not None:
            self.unknown["codec.scale_factor"] = (0.18215, 1.0)
        return 1.0


def _known_parts(hints: Mapping[str, Any]) -> Mapping[str, Any]:
    """Hints that are taken as they are; conditioners are put into the recipe before."""
    return {k: v for k, v in hints.items() if k != "conditioners"}


def _said(given: Mapping[str, Any], path: str) -> bool:
    """Whether the user gave what `path` names; one of heads and head_channels is enough."""
    keys = path.split(".")
    node: Any = given
    for key in keys[:-1]:
        if isinstance(node, list | tuple):
            node = next((m for m in node if isinstance(m, Mapping) and key in (m.get("name"), m.get("use"))), {})
        else:
            node = node.get(key, {}) if isinstance(node, Mapping) else {}
    if path == "conditioners":
        return bool(conditioner_named(given)) or given.get(path) == []
    words = {"heads": ("heads", "head_channels")}.get(keys[-1], (keys[-1],))
    return isinstance(node, Mapping) and any(word in node for word in words)


def _counted(recipe: dict[str, Any], conditioner: ConditionerShapes | None) -> dict[str, Any]:
    """`recipe` with the number of classes that the table's rows and the word on the null class make."""
    if conditioner is None or conditioner.use != "class_label":
        return recipe
    rows = conditioner.fields["classes"] + conditioner.fields["null_class"]
    counted = [
        {**row, "classes": rows - bool(row.get("null_class", True))}
        if isinstance(row, Mapping) and row.get("use") == "class_label"
        else row
        for row in recipe.get("conditioners", [])
    ]
    return {**recipe, "conditioners": counted}
