"""DeepSpeed's configuration from a recipe: raw settings merged, contradictions and unknown keys named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from training_runs import TINY

from ldm_core.catalog import Catalog
from ldm_core.errors import ConfigError
from ldm_core.recipe.deepspeed import TOP_KEYS, ZERO_KEYS, engine_config, loss_scale_settings, misfits, raw_settings
from ldm_core.recipe.settings import EngineSettings
from ldm_core.training import workflow


def settings(**changes: Any) -> EngineSettings:
    return EngineSettings(**{"images_per_step": 12, "accumulate": 2, "clip": 0.0, "zero": 2, **changes})


def lines(chosen: EngineSettings, size: int = 3) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        engine_config(chosen, size, "trainer")
    return list(caught.value.problems)


def test_the_configuration_is_complete() -> None:
    conf = engine_config(settings(), 3, "trainer", trained=7)
    assert (conf["train_batch_size"], conf["train_micro_batch_size_per_gpu"]) == (12, 2)
    assert conf["gradient_clipping"] == 0.0  # DeepSpeed's default is 1.0, so it is always written
    assert conf["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 8, "allgather_bucket_size": 8}
    assert conf["zero_force_ds_cpu_optimizer"] is False  # else it compiles its own
    said = "trainer.images_per_step: 12 is not divisible by 5 process.es. x accumulate 2; use a multiple of 10"
    assert re.fullmatch(said, lines(settings(), 5)[0])


def test_offload_is_written_out() -> None:
    conf = engine_config(settings(zero=3, offload="all"), 3, "trainer")["zero_optimization"]
    assert conf["offload_optimizer"] == conf["offload_param"] == {"device": "cpu"}
    pinned = {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": False}}}
    conf = engine_config(settings(offload="optimizer", deepspeed=pinned), 3, "trainer")["zero_optimization"]
    assert conf["offload_optimizer"] == {"device": "cpu", "pin_memory": False} and "offload_param" not in conf


def test_raw_settings_are_merged_over_the_files(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    file = {"zero_optimization": {"reduce_bucket_size": 10, "overlap_comm": True}, "dump_state": True}
    path.write_text(json.dumps(file))
    over = {"zero_optimization": {"reduce_bucket_size": 20}, "prescale_gradients": True}
    for url in (str(path), path.as_uri()):
        conf = engine_config(settings(deepspeed_file=url, deepspeed=over), 3, "trainer")
        assert conf["zero_optimization"]["reduce_bucket_size"] == 20
        assert conf["zero_optimization"]["overlap_comm"] is conf["dump_state"] is conf["prescale_gradients"] is True


def test_a_file_made_for_other_tools_is_taken_as_it_is(tmp_path: Path) -> None:
    """``auto`` and what equals the recipe are dropped."""
    path = tmp_path / "hf.json"
    file = {
        "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.999], "torch_adam": True}},
        "zero_optimization": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": "auto"},
        "gradient_accumulation_steps": "auto",
        "train_batch_size": 12,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 0.0,
        "steps_per_print": 2000,
    }
    path.write_text(json.dumps(file))
    conf = engine_config(settings(deepspeed_file=str(path)), 3, "trainer", trained=8)
    plain = engine_config(settings(), 3, "trainer", trained=8)
    plain["zero_optimization"]["overlap_comm"] = True
    assert conf == {**plain, "steps_per_print": 2000}


CLASHES: list[tuple[dict[str, Any], str]] = [
    ({"train_batch_size": 4}, "train_batch_size: 4 there, the recipe has 12; set trainer.images_per_step instead"),
    ({"gradient_clipping": 1.0}, "gradient_clipping: 1.0 there, the recipe has 0.0; set trainer.clip instead"),
    ({"bf16": {"enabled": True}}, "bf16.enabled: true there, the recipe has precision fp32; set trainer.precision"),
    ({"bf16": True}, "bf16: expected a mapping"),
    ({"optimizer": {"type": "Lamb"}}, "optimizer.type: 'Lamb' there, the trainer's is AdamW; leave it out"),
    ({"optimizer": {"params": {"lr": 0.1}}}, "optimizer.params.lr: 0.1 there, the recipe has 0.0001; set trainer.lr"),
    ({"optimizer": {"params": {"momentum": 0.1}}}, "optimizer.params.momentum: the trainer's AdamW does not take it"),
    ({"scheduler": {"type": "WarmupLR"}}, "scheduler: set trainer.schedule and trainer.warmup_steps instead"),
    ({"torch_autocast": {"enabled": True}}, "torch_autocast: the networks run under the trainer's own autocast"),
    ({"managed_gradient_accumulation": False}, "managed_gradient_accumulation: the trainer counts micro-batches"),
    ({"zero_force_ds_cpu_optimizer": True}, "the optimizer is torch's AdamW"),
    ({"zero_optimization": {"stage": 1}}, "zero_optimization.stage: 1 there, the recipe has 2; set trainer.zero"),
    ({"zero_optimization": {"cpu_offload": True}}, "zero_optimization.cpu_offload: set trainer.offload instead"),
    ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "offload_param: set trainer.offload=all instead"),
    ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "device: 'nvme' is not supported; use cpu"),
    ({"zero_optimisation": {}}, "zero_optimisation: DeepSpeed has no such setting; did you mean 'zero_optimization'?"),
    ({"zero_optimization": {"overlap_com": True}}, "no such setting; did you mean 'overlap_comm'?"),
    ({"zero_optimization": True}, "zero_optimization: expected a mapping, got True"),
]


@pytest.mark.parametrize(("raw", "said"), CLASHES)
def test_a_contradiction_names_both_keys(raw: dict[str, Any], said: str) -> None:
    found = lines(settings(deepspeed=raw))
    assert len(found) == 1 and found[0].startswith("trainer.deepspeed") and said in found[0]
    assert list(misfits(settings(deepspeed=raw), "trainer")) == found  # and before anything is started


def test_all_contradictions_come_at_once() -> None:
    raw = {"train_batch_size": 4, "scheduler": {"type": "x"}, "zero_optimization": {"stage": 1}}
    assert len(lines(settings(deepspeed=raw))) == 3


def test_a_file_that_does_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    for text, said in (("{", "is no JSON"), ("[1]", "holds a list, expected a JSON object"), (None, "ds.json")):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(ConfigError, match="trainer.deepspeed_file: .*" + said):
            raw_settings(settings(deepspeed_file=str(path)), "trainer")


def test_the_loss_scale_takes_deepspeeds_words() -> None:
    raw = {"fp16": {"enabled": True, "initial_scale_power": 8, "loss_scale_window": 100}}
    chosen = settings(precision="fp16", deepspeed=raw)
    assert loss_scale_settings(chosen, "trainer") == {"initial_scale_power": 8.0, "loss_scale_window": 100.0}
    assert "fp16" not in engine_config(chosen, 3, "trainer")  # DeepSpeed's own would cast the weights
    raw = {"fp16": {"enabled": True, "hysteresis": 2}}
    assert "fp16.hysteresis: the trainer's own fp16" in lines(settings(precision="fp16", deepspeed=raw))[0]


OFFLOADS = [
    ({"offload": "optimizer", "zero": 0}, "trainer.offload: the optimizer can be kept in host memory where ZeRO"),
    ({"offload": "all", "zero": 2}, "trainer.offload: parameters can be kept in host memory under ZeRO 3 alone"),
]


@pytest.mark.parametrize(("changes", "said"), OFFLOADS)
def test_an_offload_that_cannot_be_is_found_by_the_check(changes: dict[str, Any], said: str) -> None:
    assert said in next(iter(misfits(settings(**changes), "trainer")))
    plain = {**TINY, "trainer": {**TINY["trainer"], **changes}}
    with pytest.raises(ConfigError, match=said):
        workflow.prepare(plain, Catalog.discover())


def test_a_first_stage_is_refused_under_zero_3() -> None:
    plain = {**TINY, "first_stage": "vq_ae", "image_size": 32}
    plain["first_stage_trainer"] = {**TINY["first_stage_trainer"], "zero": 3}
    with pytest.raises(ConfigError, match=r"first_stage_trainer.zero: .* set first_stage_trainer.zero=2"):
        workflow.prepare(plain, Catalog.discover())


def test_the_known_keys_are_the_installed_deepspeeds() -> None:
    """Every key that it reads is known here; keys that it dropped since may stay."""
    from deepspeed.runtime import config, constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    assert {f.alias or name for name, f in fields.items()} <= ZERO_KEYS
    text = Path(config.__file__).read_text()
    read = {getattr(constants, name, "") for name in re.findall(r"param_dict, ([A-Z_0-9]+),", text)}
    read |= set(re.findall(r"param_dict\.get\([\"'](\w+)[\"']", text))
    assert len(read) > 15 and {k for k in read if k} <= TOP_KEYS
