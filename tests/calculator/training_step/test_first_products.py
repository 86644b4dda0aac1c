"""Where a pass allocates the workspace of its first matrix product: after the product's result."""

from __future__ import annotations

import pytest

from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.unrolled import unrolled

LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}
PROJECTION = {"name": "prefix", "prefix_projection": True}
QUERY = "model.layers.*.self_attn.q_proj: output"
HEAD = "lm_head: matmul: gradient"


@pytest.mark.parametrize(
    ("model", "method", "training", "stack", "results"),
    [
        ("Qwen/Qwen2.5-0.5B", {"name": "prompt"}, {}, {}, [QUERY, HEAD]),
        ("Qwen/Qwen2.5-0.5B", LORA, {}, {"torch": "2.12", "transformers": "5.18"}, ["model.rotary: freqs", HEAD]),
        ("Qwen/Qwen2.5-0.5B", LORA, {}, {"torch": "2.13", "transformers": "5.18"}, [QUERY, HEAD]),
        ("Qwen/Qwen2.5-0.5B", LORA, {}, {"torch": "2.12", "transformers": "5.19"}, [QUERY, HEAD]),
        ("Qwen/Qwen2.5-0.5B", PROJECTION, {}, {}, ["prompt_encoder: transform, hidden", HEAD]),
        (
            "facebook/opt-350m",
            {"name": "full"},
            {},
            {},
            ["model.decoder.project_in: output", "lm_head: weight: gradient"],
        ),
        (
            "Qwen/Qwen2.5-0.5B",
            LORA,
            {"trainer": "trl-sft", "gradient_checkpointing": True},
            {},
            [QUERY, QUERY],
        ),
    ],
)
def test_a_workspace_is_allocated_after_the_result_of_a_passes_first_product(model, method, training, stack, results):
    request = {"model": model, "method": method, "training": {"sequence_length": 64, **training}, "stack": stack}
    events = unrolled(resident_state(parse_request(request)).prepared).events()
    found = [events.rows[passed[events.workspace_place(passed) - 1]][0] for passed in (events.forward, events.backward)]
    assert found == results
