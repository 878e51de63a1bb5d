"""The conformance kit on this distribution."""

from ldm_core.testing import ConditionerSuite, PluginSuite


class TestPlugin(PluginSuite):
    module = "ldm_plugin_bert_text.plugin"


SMALL = {"vocab_size": 200, "width": 16, "layers": 2, "heads": 2, "head_width": 8, "length": 12, "logits": False}


class TestText(ConditionerSuite):
    component = "text"
    settings = SMALL


class TestMaskedText(ConditionerSuite):
    component = "text"
    settings = SMALL | {"mask": True, "tokenizer": "", "spare_tokens": 4}
