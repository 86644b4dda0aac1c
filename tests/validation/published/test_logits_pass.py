"""One forward pass with the logits of every token."""

import json

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from validation.published.logits_pass import max_allocated
from validation.published.results import RESULTS

ROWS = {row["id"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]}


def test_the_pass_has_weights_cache_and_logits_and_no_loss():
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}, "training": {"sequence_length": 4096}}
    request = parse_request(body)
    weights = 2 * estimate(request).parameters.base
    cache, logits = 16 * 2 * 4096 * 8 * 64 * 2, 4096 * 128_256 * 2
    assert 0 < max_allocated(request) - weights - cache - logits < 0.05 * logits


def test_measured_passes_are_within_a_thousandth():
    errors = [abs(ROWS[f"vramcalc/{row}/max_memory_allocated"]["error"]) for row in range(1, 7)]
    assert max(errors) < 1e-3
