"""The calculator's peak of merging equals that of PEFT's merge_and_unload on the meta device."""

import json
from dataclasses import replace
from itertools import cycle, product

import pytest

from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_method, parse_model
from calculator.inference.merging import merging
from calculator.inference.served_method import ServedMethod, served
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.methods.prepared_model import PreparedModel
from calculator.run.request import parse_run
from calculator.training_step.resident_state import ResidentState
from tests.paths import CASE_FILES
from validation.tracing.merging import trace, trace_merge

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

CONFIGS = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 192,
        "n_layer": 3,
        "n_head": 6,
        "vocab_size": 517,
        "n_positions": 4096,
    },
}


METHODS = [
    {"name": "lora"},
    {"name": "qlora", "target_modules": "all-linear", "r": 64},
    {"name": "ia3"},
    {"name": "ln_tuning"},
]
OPTIONS = [{}, {"adapter_dtype": "model"}, {"dtype": "float32"}]

#: Each method on each model, with each of the options in turn.
CASES = [(*pair, options) for pair, options in zip(product(CONFIGS, METHODS), cycle(OPTIONS))]


@pytest.mark.parametrize(("config", "method", "options"), CASES)
def test_the_peak_of_merging_equals_the_trace(config, method, options):
    serving, reference = Serving(merged=True, **options), parse_model({"config": CONFIGS[config]})
    plan = served(parse_method(method), serving)
    unmerged = replace(plan, merged=False)
    resident = ResidentState(PreparedModel(model_of(reference), unmerged, serving.training, Device()))
    assert merging(resident, plan).peak_bytes == trace(reference, unmerged, serving)


def test_a_recorded_merge_in_a_run_is_that_of_peft():
    case = json.loads((CASE_FILES / "run" / "merge.jsonl").read_text().splitlines()[1])
    request = parse_run(case["request"]).estimate
    serving = Serving(dtype=request.training.dtype, adapter_dtype=request.training.adapter_dtype)
    before, peak = trace_merge(request.model, ServedMethod(method=request.method, quantization=None), serving)
    assert peak - before == case["peak_bytes"]
