"""After a phase of Answer.AI's notebook, its output is alive, and what a graph keeps of the rest."""

from unittest.mock import patch

import pytest

from calculator.estimation.estimate import model_of, resident_state
from calculator.estimation.request import parse_request
from calculator.trainers import TRAINERS
from validation.published.notebook import MeanOfLogits, after_pass, allocated
from validation.published.prediction import predicted
from validation.published.rules import measurements
from validation.published.rules.fsdp_qlora import CONFIG, STACK

TOKENS, LAYERS = 512, CONFIG["num_hidden_layers"]
LOGITS = TOKENS * CONFIG["vocab_size"] * 4
KEYS_AND_VALUES = 2 * LAYERS * TOKENS * CONFIG["hidden_size"] * 2
FIGURES = {figure.id: figure for figure in measurements() if figure.source == "fsdp_qlora"}
LORA = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(autouse=True)
def _notebook():
    with patch.dict(TRAINERS, {None: MeanOfLogits()}):
        yield


def parsed(method, **training):
    training = {"micro_batch_size": 1, "sequence_length": TOKENS, "adapter_dtype": "model", **training}
    return parse_request({"model": {"config": CONFIG}, "method": method, "training": training, "stack": STACK})


def bytes_at(request, point):
    return allocated(request, model_of(request.model), point)


@pytest.mark.parametrize("method", [{"name": "full"}, LORA], ids=["full", "lora"])
def test_gradients_logits_keys_and_values_stay_after_the_backward_pass(method):
    request = parsed(method)
    gradients = sum(tensor.bytes for tensor in resident_state(request).gradients)
    ids = TOKENS * 8
    kept = bytes_at(request, "backward") - bytes_at(request, "loaded")
    assert 0 <= kept - gradients - LOGITS - KEYS_AND_VALUES - ids <= 1024


def test_checkpointing_keeps_no_keys_and_no_gradient_of_frozen_embeddings():
    request = parsed(LORA, gradient_checkpointing=True)
    gradients = sum(tensor.bytes for tensor in resident_state(request).gradients)
    kept = bytes_at(request, "backward") - bytes_at(request, "loaded")
    assert 0 <= kept - gradients - LOGITS - TOKENS * 8 <= TOKENS * 8 + 1024


def test_the_most_is_allocated_at_the_gradient_of_the_logits_in_both_data_types():
    request = parsed(LORA, gradient_checkpointing=True)
    assert 0 <= bytes_at(request, None) - bytes_at(request, "forward") - LOGITS - LOGITS // 2 <= 1024


def test_tables_grow_with_sequences_that_are_longer_than_they_are():
    tables = 2 * LAYERS * 1024 * 128 * 2
    short, long = (after_pass(request, model_of(request.model)) for request in map(of_length, (2048, 3072)))
    assert long - short == tables + 1024 * CONFIG["vocab_size"] * 4 + KEYS_AND_VALUES * 2


def of_length(tokens):
    return parsed({"name": "full"}, sequence_length=tokens)


def test_a_process_keeps_the_workspaces_of_the_passes_before():
    first, second = (FIGURES[f"fsdp_qlora/{row}/loaded"] for row in (2415, 2416))
    assert predicted(second).bytes - predicted(first).bytes == 8_519_680


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("2417/loaded", 1e-3),
        ("2417/backward", 5e-4),
        ("2421/backward", 1e-3),
        ("2425/backward", 1e-3),
        ("2429/backward", 1e-3),
        ("2437/forward", 1e-3),
        ("2442/forward", 2e-3),
    ],
)
def test_figures_are_predicted(name, tolerance):
    figure = FIGURES[f"fsdp_qlora/{name}"]
    assert predicted(figure).bytes == pytest.approx(figure.bytes, rel=tolerance)
