"""Every family's models compared with those that transformers builds from the same configs."""

from __future__ import annotations

import dataclasses
import json

import bitsandbytes
import pytest
import torch
import transformers
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from calculator.architecture.config import REQUIRED, Field
from calculator.catalogue import models
from calculator.estimation.traced.check import modeled_models
from calculator.families import FAMILIES, model_from_config
from tests.validation.families.real_models import AUTO_CLASSES, dtype_name, real_config, real_model
from validation.random_grid.random_configs import NEVER, random_config
from validation.reference.build import has_own_head
from validation.reference.heads import head_of
from validation.reference.uninitialized import without_values

pytestmark = pytest.mark.trace

OWN_CODE = [family for family in FAMILIES.values() if family.built_as is None]

SEEDS = range(3)


def _listed(ours):
    return [(w.name, tuple(w.shape), w.dtype) for w in ours.weights()]


def _named(real):
    return [(name, tuple(p.shape), dtype_name(p)) for name, p in real.named_parameters()]


def _pairs(tied):
    return {frozenset(both) for both in tied.items()}


@pytest.mark.parametrize("entry", modeled_models(), ids=lambda entry: entry.id)
def test_a_catalogue_model_has_the_weights_of_the_built_one_name_by_name(entry):
    ours, real = model_from_config(entry.config, id=entry.id), real_model(entry.config)
    assert _listed(ours) == _named(real)
    assert _pairs(ours.tied) == _pairs(real.all_tied_weights_keys)
    assert ours.parameters == sum(p.numel() for p in real.parameters()) == entry.parameters
    assert (ours.id, ours.model_type) == (entry.id, entry.model_type)
    assert FAMILIES[entry.model_type].auto_class == entry.auto_class


@pytest.mark.parametrize("entry", [e for e in models() if e not in modeled_models()], ids=lambda entry: entry.id)
def test_a_model_that_is_only_traced_has_the_count_of_the_built_one(entry):
    with torch.device("meta"), without_values():
        real = AUTO_CLASSES[entry.auto_class].from_config(real_config(entry.config))
    assert entry.parameters == sum(p.numel() for p in real.parameters())
    assert head_of(entry.model_type) == AUTO_CLASSES[entry.auto_class].__name__


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", OWN_CODE, ids=lambda family: family.model_type)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_of_a_random_config_is_the_built_one(family, seed):
    """Weights and buffers by name, shape and dtype; ties, kinds of modules, the head, and the config's fields."""
    config = random_config(family, seed)
    ours, real = model_from_config(config), real_model(config)
    assert _listed(ours) == _named(real)
    assert ours.parameters == sum(p.numel() for p in real.parameters())
    tied_the_same(ours, real)
    buffers = {(name, tuple(b.shape), dtype_name(b)) for name, b in real.named_buffers()}
    assert {(b.name, tuple(b.shape), b.dtype) for b in ours.named_buffers()} == buffers
    owners = {weight.name: real.get_submodule(weight.name.rpartition(".")[0]) for weight in ours.weights()}
    assert {w.name: w.kind for w in ours.weights()} == {name: _kind(owner) for name, owner in owners.items()}
    head = real.get_output_embeddings()
    assert ours.head == next((name for name, module in real.named_modules() if module is head), None)
    config_resolves_the_same(config, ours)
    saved_configs_give_the_same(config, ours)
    assert {w.name.removesuffix(".weight") for w in ours.weights() if w.quantizable} == converted_to_4_bits(real)


def tied_the_same(ours, real):
    """The same weights are tied."""
    assert _pairs(ours.tied) == _pairs(real.all_tied_weights_keys)
    real_names = dict(real.named_parameters(remove_duplicate=False))
    assert all(real_names[name] is real_names[kept] for name, kept in ours.tied.items())


def converted_to_4_bits(real):
    """The modules that bitsandbytes converts; `real` is changed."""
    kept = [*get_keys_to_not_convert(real), *real._keep_in_fp32_modules]
    replace_with_bnb_linear(real, kept, BitsAndBytesConfig(load_in_4bit=True))
    return {name for name, module in real.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}


def _kind(module):
    named = type(module).__name__
    classes = ((torch.nn.Linear, "linear"), (Conv1D, "conv1d"), (torch.nn.Embedding, "embedding"))
    kinds = (kind for cls, kind in classes if isinstance(module, cls))
    return next(kinds, "experts" if "Experts" in named else "norm" if "Norm" in named else "other")


def config_resolves_the_same(config, ours):
    """The config resolves as the config class resolves it."""
    resolved, family = real_config(config), FAMILIES[config["model_type"]]
    nested, entries = family.text is not None, family.text or family.entries
    mine, theirs = (ours.config["text_config"], resolved.text_config) if nested else (ours.config, resolved)
    theirs.allow_global_per_layer_attribute_access = True
    fields = [e for e in entries if isinstance(e, Field) and (ours.model_type, e.name) not in STORED_DIFFERENTLY]
    expected = {f.name: getattr(theirs, f.own_name, None) for f in fields if f.type not in ("object", "terms")}
    expected = {name: _plain(value) for name, value in expected.items() if value is not None or mine[name] is None}
    assert {name: _plain(mine[name]) for name in expected} == expected


#: Fields that we store in another form than the class.
STORED_DIFFERENTLY = {
    ("deberta-v2", "norm_rel_ebd"),
    ("falcon", "num_key_value_heads"),
    ("falcon", "num_ln_in_parallel_attn"),
    ("gpt_neo", "attention_types"),
    # the class sets it to True, whatever head the checkpoint has
    ("mt5", "tie_word_embeddings"),
    ("t5", "tie_word_embeddings"),
}


def _plain(value):
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def saved_configs_give_the_same(config, ours):
    """A file that the config class saves, whole or without its defaults, gives the same model.

    T5's class does not save that a checkpoint has a head.
    """
    if has_own_head(config):
        return
    for use_diff in (True, False):
        saved = json.loads(real_config(config).to_json_string(use_diff=use_diff))
        again = model_from_config({"model_type": config["model_type"], **saved})
        assert list(again.weights()) == list(ours.weights())
        assert list(again.named_buffers()) == list(ours.named_buffers())


@pytest.mark.parametrize("family", OWN_CODE, ids=lambda family: family.model_type)
def test_defaults_are_those_of_the_config_class(family):
    cls = CONFIG_MAPPING[family.model_type]
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    optional = [e for e in family.entries if isinstance(e, Field) and e.default is not REQUIRED]
    fields = [e for e in optional if e.name not in NEVER]
    ours = {f.own_name: f.default for f in fields if f.own_name in defaults}
    assert ours == {name: defaults[name] for name in ours}
    bases = [f.default for f in fields if f.name in ("rope_theta", "local_rope_theta")]
    if bases:
        theirs = cls.default_theta
        assert set(bases) == (set(theirs.values()) if isinstance(theirs, dict) else {theirs})


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_the_source_of_a_family_is_a_file_of_transformers(family):
    folder, _, file = family.source.removeprefix("transformers/models/").partition("/")
    built = getattr(transformers, MODEL_MAPPING_NAMES[family.built_as or family.model_type])
    assert (folder, file) == (built.__module__.split(".")[2], f"modeling_{folder}.py")
