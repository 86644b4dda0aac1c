"""The catalogue's counts against the models that transformers builds from the same configs, on the meta device."""

from copy import deepcopy

import pytest
import torch
import transformers

from calculator.catalogue import models

AUTO_CLASSES = {
    "base": transformers.AutoModel,
    "causal": transformers.AutoModelForCausalLM,
    "image-text-to-text": transformers.AutoModelForImageTextToText,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}


@pytest.mark.trace
@pytest.mark.parametrize("entry", models(), ids=lambda entry: entry.id)
def test_the_count_is_that_of_the_model_that_transformers_builds(entry):
    config = transformers.AutoConfig.for_model(**deepcopy(entry.config))
    with torch.device("meta"):
        built = AUTO_CLASSES[entry.auto_class].from_config(config)
    assert sum(parameter.numel() for parameter in built.parameters()) == entry.parameters
