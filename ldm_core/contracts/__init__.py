"""The contracts between the core and its parts: what a component is handed and what it must give back.

Importing this module does not import torch. Shapes: B batch; C latent channels; ``*s`` latent axes (h, w; a video
has f, h, w); L tokens. Images between components are float in [-1, 1]; ``x``, ``x0`` and schedule coefficients are
float32 or better.

:class:`FirstStage`, :class:`Conditioner`, :class:`Denoiser` and :class:`Sampler` are what users subclass: they are
the stable API. A subclass that forgets a method fails at construction with the method's name. All other contracts
are provisional until 1.0.

Every component keeps to this:

* **inputs** - a component changes no argument in place.
* **rows** - row i of a result depends on row i of the inputs alone, never on the batch around it. The batch stands
  first, and of finite inputs the result is finite, under bfloat16 autocast too, where the config's `precisions`
  allow it.
* **randomness** - noise comes from the ``Streams`` that a method is handed: ``streams.normal(shape)`` and
  ``streams.uniform(shape)`` draw float32, row i from stream i, with ``shape[0] == len(streams)``. The global generators
  of torch, numpy and Python are never drawn from.
* **repetition** - in eval mode an equal call gives an equal result, bit for bit, and leaves the state as it was.
* **arithmetic** - the networks of a part run in one of the `precisions` that its config names, and of finite inputs
  the result is finite in each of them. The core puts autocast around a part's methods, or turns it off.
* **precision** - of float32 inputs a component makes float32 and never float64, but for the coefficients and times of
  schedules, which are float64.

Who owns what, for every component that is a ``torch.nn.Module`` (first stages, conditioners, denoisers):

* **device** - the core moves a component with ``.to(device)``; a component creates tensors on the device of its
  inputs or of its parameters and never picks one itself.
* **train/eval mode** - the core calls ``.train()`` and ``.eval()``; a component only reads ``self.training``.
* **freezing** - the core sets ``requires_grad``; a component neither freezes itself nor wraps itself in ``no_grad``.
* **parameters** - a component registers its own and no one else's: a part that borrows another's module holds it
  unregistered. Everything that it learned is in its ``state_dict``, as tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_core.contracts.answers import AdapterAnswers as AdapterAnswers
    from ldm_core.contracts.answers import ConditionerAnswers as ConditionerAnswers
    from ldm_core.contracts.answers import DatasetAnswers as DatasetAnswers
    from ldm_core.contracts.answers import DenoiserAnswers as DenoiserAnswers
    from ldm_core.contracts.answers import FirstStageAnswers as FirstStageAnswers
    from ldm_core.contracts.answers import MetricAnswers as MetricAnswers
    from ldm_core.contracts.answers import ObjectiveAnswers as ObjectiveAnswers
    from ldm_core.contracts.answers import PartAnswers as PartAnswers
    from ldm_core.contracts.answers import ScheduleAnswers as ScheduleAnswers
    from ldm_core.contracts.answers import StageObjectiveAnswers as StageObjectiveAnswers
    from ldm_core.contracts.codec import Annotated as Annotated
    from ldm_core.contracts.codec import AnnotationFiles as AnnotationFiles
    from ldm_core.contracts.codec import AnnotationFormat as AnnotationFormat
    from ldm_core.contracts.codec import Annotations as Annotations
    from ldm_core.contracts.codec import Codec as Codec
    from ldm_core.contracts.codec import ModelWeights as ModelWeights
    from ldm_core.contracts.codec import Recognised as Recognised
    from ldm_core.contracts.codec import Source as Source
    from ldm_core.contracts.codec import TensorFile as TensorFile
    from ldm_core.contracts.codec import TensorInfo as TensorInfo
    from ldm_core.contracts.codec import Written as Written
    from ldm_core.contracts.components import Conditioner as Conditioner
    from ldm_core.contracts.components import Denoiser as Denoiser
    from ldm_core.contracts.components import FirstStage as FirstStage
    from ldm_core.contracts.components import Sampler as Sampler
    from ldm_core.contracts.conditioning import Cond as Cond
    from ldm_core.contracts.conditioning import Conditions as Conditions
    from ldm_core.contracts.conditioning import Tokens as Tokens
    from ldm_core.contracts.config import Config as Config
    from ldm_core.contracts.config import DegradationConfig as DegradationConfig
    from ldm_core.contracts.config import RuntimeConfig as RuntimeConfig
    from ldm_core.contracts.configs import AdapterConfig as AdapterConfig
    from ldm_core.contracts.configs import AuxiliaryLossConfig as AuxiliaryLossConfig
    from ldm_core.contracts.configs import CodecConfig as CodecConfig
    from ldm_core.contracts.configs import ConditionerConfig as ConditionerConfig
    from ldm_core.contracts.configs import DatasetConfig as DatasetConfig
    from ldm_core.contracts.configs import DenoiserConfig as DenoiserConfig
    from ldm_core.contracts.configs import FirstStageConfig as FirstStageConfig
    from ldm_core.contracts.configs import GuidanceConfig as GuidanceConfig
    from ldm_core.contracts.configs import MetricConfig as MetricConfig
    from ldm_core.contracts.configs import ObjectiveConfig as ObjectiveConfig
    from ldm_core.contracts.configs import ParameterizationConfig as ParameterizationConfig
    from ldm_core.contracts.configs import SamplerConfig as SamplerConfig
    from ldm_core.contracts.configs import ScheduleConfig as ScheduleConfig
    from ldm_core.contracts.configs import StageObjectiveConfig as StageObjectiveConfig
    from ldm_core.contracts.configs import TimeGridConfig as TimeGridConfig
    from ldm_core.contracts.current import Evaluation as Evaluation
    from ldm_core.contracts.current import draw_times as draw_times
    from ldm_core.contracts.current import evaluation as evaluation
    from ldm_core.contracts.current import grid_times as grid_times
    from ldm_core.contracts.current import token_grid as token_grid
    from ldm_core.contracts.metric import Metric as Metric
    from ldm_core.contracts.metric import Pictures as Pictures
    from ldm_core.contracts.metric import Rows as Rows
    from ldm_core.contracts.provisional import Adapter as Adapter
    from ldm_core.contracts.provisional import Dataset as Dataset
    from ldm_core.contracts.provisional import Decoder as Decoder
    from ldm_core.contracts.provisional import Degradation as Degradation
    from ldm_core.contracts.provisional import DiffusionModel as DiffusionModel
    from ldm_core.contracts.provisional import Guidance as Guidance
    from ldm_core.contracts.provisional import LossContext as LossContext
    from ldm_core.contracts.provisional import Network as Network
    from ldm_core.contracts.provisional import NoiseSchedule as NoiseSchedule
    from ldm_core.contracts.provisional import Objective as Objective
    from ldm_core.contracts.provisional import Observer as Observer
    from ldm_core.contracts.provisional import Parameterization as Parameterization
    from ldm_core.contracts.provisional import Predict as Predict
    from ldm_core.contracts.provisional import Runtime as Runtime
    from ldm_core.contracts.provisional import TimeGrid as TimeGrid
    from ldm_core.contracts.run import SamplingRun as SamplingRun
    from ldm_core.contracts.site import FileCache as FileCache
    from ldm_core.contracts.site import Site as Site
    from ldm_core.contracts.stage_objective import AuxiliaryLoss as AuxiliaryLoss
    from ldm_core.contracts.stage_objective import Opponent as Opponent
    from ldm_core.contracts.stage_objective import StageBatch as StageBatch
    from ldm_core.contracts.stage_objective import StageLoss as StageLoss
    from ldm_core.contracts.stage_objective import StageObjective as StageObjective
    from ldm_core.contracts.stage_objective import StageTraining as StageTraining
    from ldm_core.contracts.stage_objective import TrainableStage as TrainableStage
    from ldm_core.contracts.values import EMPTY as EMPTY
    from ldm_core.contracts.values import SIZE_KEYS as SIZE_KEYS
    from ldm_core.contracts.values import Accepts as Accepts
    from ldm_core.contracts.values import Batch as Batch
    from ldm_core.contracts.values import BlockSpan as BlockSpan
    from ldm_core.contracts.values import CondSpec as CondSpec
    from ldm_core.contracts.values import DataInfo as DataInfo
    from ldm_core.contracts.values import Denoise as Denoise
    from ldm_core.contracts.values import Estimate as Estimate
    from ldm_core.contracts.values import KeyForm as KeyForm
    from ldm_core.contracts.values import LatentSpec as LatentSpec
    from ldm_core.contracts.values import LossOutput as LossOutput
    from ldm_core.contracts.values import OnStep as OnStep
    from ldm_core.contracts.values import Precision as Precision
    from ldm_core.contracts.values import Reconstruction as Reconstruction
    from ldm_core.contracts.values import WeightSlice as WeightSlice

_ROOMS = {
    "answers": (
        "AdapterAnswers ConditionerAnswers DatasetAnswers DenoiserAnswers FirstStageAnswers MetricAnswers "
        "ObjectiveAnswers PartAnswers ScheduleAnswers StageObjectiveAnswers"
    ),
    "codec": (
        "Annotated AnnotationFiles AnnotationFormat Annotations Codec ModelWeights Recognised Source TensorFile "
        "TensorInfo Written"
    ),
    "components": "Conditioner Denoiser FirstStage Sampler",
    "conditioning": "Cond Conditions Tokens",
    "config": "Config DegradationConfig RuntimeConfig",
    "configs": (
        "AdapterConfig AuxiliaryLossConfig CodecConfig ConditionerConfig DatasetConfig DenoiserConfig "
        "FirstStageConfig GuidanceConfig MetricConfig ObjectiveConfig ParameterizationConfig SamplerConfig "
        "ScheduleConfig StageObjectiveConfig TimeGridConfig"
    ),
    "current": "Evaluation draw_times evaluation grid_times token_grid",
    "metric": "Metric Pictures Rows",
    "provisional": (
        "Adapter Dataset Decoder Degradation DiffusionModel Guidance "
        "LossContext Network NoiseSchedule Objective Observer Parameterization Predict Runtime TimeGrid"
    ),
    "run": "SamplingRun",
    "site": "FileCache Site",
    "stage_objective": "AuxiliaryLoss Opponent StageBatch StageLoss StageObjective StageTraining TrainableStage",
    "values": (
        "EMPTY SIZE_KEYS Accepts Batch BlockSpan CondSpec DataInfo Denoise Estimate KeyForm LatentSpec LossOutput "
        "OnStep Precision Reconstruction WeightSlice"
    ),
}
"""Every name by the module that has it, which is imported at its first use: a command line needs few of them."""
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

if not TYPE_CHECKING:  # to a type checker it would be a leave for any name
    __all__ = sorted(_ROOM_OF)

    def __getattr__(name: str) -> Any:
        if name not in _ROOM_OF:
            raise AttributeError(f"module 'ldm_core.contracts' has no attribute '{name}'")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"ldm_core.contracts.{_ROOM_OF[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM_OF})
