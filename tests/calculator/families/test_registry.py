"""The registry of families: every folder, once, with a forward pass or without one."""

import pytest

from calculator import families
from calculator.common.errors import PlanError
from calculator.families import FAMILIES, FAMILIES_WITH_FORWARD, FOLDERS, forward_of, model_from_config
from tests.paths import ROOT

PACKAGE = ROOT / "calculator" / "families"

#: Families that no decoder's forward pass describes.
WITHOUT_FORWARD = {
    "bart",
    "bert",
    "deberta-v2",
    "distilbert",
    "modernbert",
    "mt5",
    "roberta",
    "t5",
    "vit",
    "whisper",
    "xlm-roberta",
}


def test_every_folder_is_registered_once_in_order():
    assert list(FOLDERS) == sorted(path.parent.name for path in PACKAGE.glob("*/weights.py"))


def test_every_module_of_forward_passes_is_in_a_registered_folder():
    assert {path.parent.name for path in PACKAGE.glob("*/forward.py")} <= set(FOLDERS)


def test_a_model_type_is_described_once():
    described = [family.model_type for folder in FOLDERS for family in _weights(folder).FAMILIES]
    assert sorted(described) == sorted(FAMILIES)


def test_the_families_without_a_forward_pass_of_their_own_class_are_encoders_and_encoder_decoders():
    assert {name for name, family in FAMILIES.items() if family.forward is None} == WITHOUT_FORWARD


def test_a_family_without_a_forward_pass_has_no_forward_module():
    for folder in FOLDERS:
        modeled = {family.forward is not None or bool(family.tasks) for family in _weights(folder).FAMILIES}
        assert modeled == {(PACKAGE / folder / "forward.py").exists()}, folder


def test_a_family_that_is_counted_as_another_has_that_ones_forward_pass():
    counted = {name: family.built_as for name, family in FAMILIES.items() if family.built_as}
    assert counted == {"internlm2": "llama", "baichuan": "llama"}
    assert all(FAMILIES[name].forward is FAMILIES[other].forward for name, other in counted.items())
    assert not counted.keys() & set(FAMILIES_WITH_FORWARD)


def test_the_forward_pass_of_a_family_without_one_is_refused():
    config = {"model_type": "deberta-v2", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 48}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    with pytest.raises(
        PlanError, match="the training step of deberta-v2 is not modeled for causal_lm: set task seq_cls"
    ):
        forward_of(model_from_config(config))


def test_a_family_whose_step_is_modeled_for_some_tasks_names_them():
    config = {"model_type": "distilbert", "vocab_size": 96, "dim": 64, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
    with pytest.raises(PlanError, match="distilbert is not modeled for causal_lm: set task seq_cls"):
        forward_of(model_from_config(config))


def _weights(folder):
    return getattr(families, folder).weights
