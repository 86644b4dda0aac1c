"""Models for other tasks compared with those that transformers builds."""

import random

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from calculator.architecture.task import Task
from calculator.families import FAMILIES, model_from_config
from calculator.families.tasks import SCORED, families_of
from tests.validation.families.real_models import OWN, dtype_name, real_config
from validation.random_grid.random_configs import random_config

pytestmark = pytest.mark.trace

TYPES = families_of(FAMILIES, "seq_cls")


def test_every_type_has_a_classifier_in_transformers():
    assert set(TYPES) <= set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    assert {name for name in SCORED if FAMILIES[name].forward is None} == set()


@pytest.mark.parametrize("model_type", [*random.Random(18).sample(sorted(SCORED), 8), *sorted({*TYPES} - SCORED)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_classifier_has_the_weights_of_the_built_one(model_type):
    config = random_config(FAMILIES[model_type], 18)
    ours = model_from_config(config, task=Task(name="seq_cls", num_labels=5))
    built = real_config(config)
    built.num_labels = 5
    with torch.device("meta"):
        real = transformers.AutoModelForSequenceClassification.from_config(built, dtype=OWN)
    assert [(w.name, tuple(w.shape), w.dtype) for w in ours.weights()] == [
        (name, tuple(p.shape), dtype_name(p)) for name, p in real.named_parameters()
    ]
    assert ours.parameters == sum(p.numel() for p in real.parameters())


@pytest.mark.parametrize("model_type", families_of(FAMILIES, "feature_extraction"))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_without_a_head_has_the_weights_and_buffers_of_the_built_one(model_type):
    config = random_config(FAMILIES[model_type], 18)
    ours = model_from_config(config, task=Task(name="feature_extraction"))
    with torch.device("meta"):
        real = transformers.AutoModel.from_config(real_config(config), dtype=OWN)
    assert [(w.name, tuple(w.shape), w.dtype) for w in ours.weights()] == [
        (name, tuple(p.shape), dtype_name(p)) for name, p in real.named_parameters()
    ]
    assert sorted((buffer.name, tuple(buffer.shape)) for buffer in ours.named_buffers()) == sorted(
        (name, tuple(buffer.shape)) for name, buffer in real.named_buffers()
    )
