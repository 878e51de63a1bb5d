"""Names that plugins and applications rely on: a new one is added here on purpose, a lost one breaks somebody."""

from __future__ import annotations

from types import ModuleType

import pytest
from measures import hold

import ldm_core
from ldm_core import contracts, testing

NAMES: dict[ModuleType, str] = {
    ldm_core: """
        API_VERSION Catalog Component Conditioner Denoiser FirstStage LDMError Pipeline PromptWarning Recipe Run Sampler
        Start TrainingProgress hookimpl hookspec load train
    """,
    contracts: """
        Annotated AnnotationFiles AnnotationFormat Annotations Decoder
        Accepts Adapter AdapterAnswers AdapterConfig AuxiliaryLoss AuxiliaryLossConfig Batch BlockSpan Codec CodecConfig
        Cond CondSpec Conditioner ConditionerAnswers ConditionerConfig Conditions Config DataInfo Dataset
        DatasetAnswers DatasetConfig Degradation DegradationConfig Denoise Denoiser DenoiserAnswers DenoiserConfig
        DiffusionModel EMPTY Estimate Evaluation FileCache FirstStage FirstStageAnswers FirstStageConfig Guidance
        GuidanceConfig KeyForm LatentSpec LossContext LossOutput Metric MetricAnswers MetricConfig ModelWeights
        Network NoiseSchedule Objective ObjectiveAnswers ObjectiveConfig Observer OnStep Opponent Parameterization
        ParameterizationConfig PartAnswers Pictures Precision Predict Recognised Reconstruction Rows Runtime
        RuntimeConfig SIZE_KEYS Sampler
        SamplerConfig SamplingRun ScheduleAnswers ScheduleConfig Site Source StageBatch StageLoss StageObjective
        StageObjectiveAnswers StageObjectiveConfig StageTraining TensorFile TensorInfo TimeGrid TimeGridConfig
        Tokens TrainableStage WeightSlice Written draw_times evaluation grid_times token_grid
    """,
    testing: """
        AdapterSuite AnnotationSuite AuxiliaryLossSuite CodecSuite ConditionerSuite DatasetSuite
        DecoderSuite DegradationSuite DenoiserSuite FirstStageSuite GuidanceSuite Known MetricSuite ModuleSuite
        ObjectiveSuite
        ObserverSuite ParameterizationSuite PluginSuite RuntimeSuite SamplerSuite ScheduleSuite StageObjectiveSuite
        Suite TensorSuite TimeGridSuite
    """,
}


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_public_names_are_known(module: ModuleType) -> None:
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if not (name.startswith("_") or isinstance(value, ModuleType))
    ]
    names = [name for name in names if name != "annotations"]
    assert sorted(names) == sorted(NAMES[module].split())
    assert all(hasattr(module, name) for name in names)


def test_optional_names_are_declared() -> None:
    hold(
        "optional_names",
        "declare the name with its default in a contract, so that an author's slip is found; no getattr with a default "
        "and no hasattr on a text",
    )
