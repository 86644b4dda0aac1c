"""The settings and default targets of methods are those of PEFT's configurations."""

import re
from dataclasses import MISSING, fields

import peft
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import constants

from calculator.families import FAMILIES
from calculator.methods import METHODS
from calculator.methods.config_arguments import config_arguments
from calculator.methods.not_modeled import NOT_MODELED
from calculator.methods.targeted.default_targets import DEFAULT_PATTERNS
from tests.paths import ROOT

#: Settings that PEFT requires, whose defaults are Headroom's.
NEEDED = {"num_virtual_tokens", "total_step", "adapter_len", "adapter_layers", "adapters"}


def test_a_method_of_peft_is_described_by_its_configuration():
    """Exports, imports and the real modules are made from the settings, which have the names of PEFT's arguments."""
    for name, cls in METHODS.items():
        config = cls.facts.config_class
        if config is not None:
            arguments = {field.name: field.default for field in fields(getattr(peft, config))}
            settings = config_arguments(cls())
            assert settings.keys() <= arguments.keys(), name
            differing = {key for key, value in settings.items() if arguments[key] not in (value, MISSING)}
            assert differing <= NEEDED, name
            assert PEFT_TYPE_TO_CONFIG_MAPPING[cls.facts.peft_type].__name__ == config


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.facts.default_targets])
def test_default_targets_are_those_of_peft(name):
    facts = METHODS[name].facts
    kind = "LORA" if name == "xlora" else facts.peft_type.replace("_", "")  # its adapters are LoRA's
    table = getattr(constants, f"TRANSFORMERS_MODELS_TO_{kind}_TARGET_MODULES_MAPPING")
    theirs = {family: table[family] for family in facts.default_targets}
    patterns = {family: their for family, their in theirs.items() if isinstance(their, str)}
    for family, pattern in patterns.items():
        assert family in DEFAULT_PATTERNS
        assert pattern == rf".*language_model\..*\.({'|'.join(facts.default_targets[family])})"
    assert facts.default_targets == {
        family: tuple(their) if family not in patterns else facts.default_targets[family]
        for family, their in theirs.items()
    }
    # A config.json of llama4 builds its text model, whose own type is not in PEFT's tables.
    assert {family for family in table if family in FAMILIES} - {"llama4"} <= facts.default_targets.keys()


def test_every_method_of_peft_is_modeled_or_refused_with_a_reason():
    served = {cls.facts.peft_type for cls in METHODS.values() if cls.facts.peft_type}
    assert served | NOT_MODELED.keys() == {kind.value for kind in peft.PeftType}
    assert not served & NOT_MODELED.keys()
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", (ROOT / "docs/peft_methods.md").read_text(), re.MULTILINE))
    assert rows.keys() == served | NOT_MODELED.keys()
    assert {kind: f"refused: {reason}" for kind, reason in NOT_MODELED.items()}.items() <= rows.items()
