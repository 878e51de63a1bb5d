"""The conformance kit on this distribution."""

from __future__ import annotations

import atexit
from pathlib import Path
from tempfile import TemporaryDirectory

from clip_words import write_folder

from ldm_core.testing import ConditionerSuite, PluginSuite

_KEPT = TemporaryDirectory()
atexit.register(_KEPT.cleanup)
SMALL = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "inner": 32,
    "length": 60,
    "vocab_size": 1000,
    "tokenizer": str(write_folder(Path(_KEPT.name))),
}


class TestPlugin(PluginSuite):
    module = "ldm_plugin_clip_text.plugin"


class TestClipText(ConditionerSuite):
    component = "clip_text"
    settings = SMALL


class TestPenultimate(ConditionerSuite):
    component = "clip_text_sd2"
    settings = SMALL | {"skip": 1}
    unused = ("transformer.text_model.encoder.layers.1.",)
