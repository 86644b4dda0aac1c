"""Null fields and incomplete rotary parameters are refused if transformers raises an error for them."""

import pytest

from calculator.architecture.config import Field
from calculator.common.errors import PlanError
from calculator.families import FAMILIES, model_from_config
from tests.validation.families.real_models import real_model
from validation.random_grid.random_configs import random_config

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

OWN_CODE = [family for family in FAMILIES.values() if family.built_as is None]
ROTATIONS = ("rope_parameters", "rope_scaling")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 1e6}


def changed(model_type, **fields):
    """Return a random config of a family with some fields of its text model changed."""
    config = random_config(FAMILIES[model_type], 0)
    nested = isinstance(config.get("text_config"), dict)
    text = config["text_config"] if nested else config
    replaced = ROTATIONS if set(ROTATIONS) & set(fields) else ()
    text = {key: value for key, value in text.items() if key not in replaced} | fields
    return {**config, "text_config": text} if nested else text


def refused(config):
    try:
        model_from_config(config)
    except PlanError as error:
        return [f"{problem.loc.rpartition('.')[2]} {problem.msg}" for problem in error.problems]
    return []


def raises(config):
    try:
        real_model(config)
    except Exception:  # noqa: BLE001  libraries raise many types
        return True
    return False


@pytest.mark.parametrize("family", OWN_CODE, ids=lambda family: family.model_type)
@pytest.mark.parametrize("rotation", [{}, {"rope_parameters": YARN}], ids=["default", "yarn"])
def test_a_head_dim_of_null_is_refused_if_transformers_raises_an_error(family, rotation):
    fields = {entry.name for entry in family.text or family.entries if isinstance(entry, Field)}
    if rotation and not {"rope_parameters", "head_dim"} <= fields:
        pytest.skip("no rotary parameters, or no head_dim")
    config = changed(family.model_type, head_dim=None, **rotation)
    wrong = refused(config)
    if raises(config):
        assert wrong
    elif "given_head_dim" not in fields:
        # The head size that is computed instead may be wrong for other reasons.
        assert "null" not in " ".join(wrong)


@pytest.mark.parametrize(
    ("model_type", "parameters"),
    [
        ("llama", {"rope_type": "linear", "factor": None}),
        ("llama", {"rope_type": "dynamic", "factor": None}),
        ("llama", {**LLAMA_3, "original_max_position_embeddings": None}),
        ("llama", {**YARN, "original_max_position_embeddings": None}),
        ("gemma4_text", {"full_attention": PROPORTIONAL, "sliding_attention": {"rope_type": "default"}}),
        ("gemma4_text", {"full_attention": {"rope_type": "proportional"}, "sliding_attention": PROPORTIONAL}),
        ("gemma4_text", {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [1.0] * 16}),
        ("modernbert", {"rope_type": "default", "rope_theta": 1e4}),
    ],
)
@pytest.mark.parametrize("name", ROTATIONS)
def test_rotary_parameters_that_transformers_cannot_use_are_refused(model_type, parameters, name):
    config = changed(model_type, **{name: parameters})
    assert raises(config) == bool(refused(config))


def test_a_factor_of_null_is_computed_by_yarn():
    config = changed("llama", rope_parameters={**YARN, "factor": None})
    assert not raises(config)
    assert not refused(config)


def test_another_name_of_a_field_may_not_be_null():
    config = changed("glm4_moe_lite", qk_rope_head_dim=16, head_dim=None)
    assert raises(config)
    assert refused(config) == ["qk_rope_head_dim head_dim, another name for it, is null; leave it out"]
