"""The traced engine on models that the calculator models: the same bytes."""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.traced.answer import traced_estimate
from calculator.estimation.traced.document import TraceDocument
from tests.tiny_models import GPT2
from tests.tiny_models import LLAMA as TINY_LLAMA
from validation.traced.engine import answer
from validation.traced.engines import differences
from validation.traced.operations import WITH_WORKSPACE, validated

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

LLAMA = {**TINY_LLAMA, "num_hidden_layers": 3}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
TARGETS = {"name": "lora", "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("config", "method", "training"),
    [
        (LLAMA, TARGETS, {"gradient_accumulation_steps": 2}),
        (LLAMA, {"name": "qlora", "target_modules": "all-linear"}, {"gradient_checkpointing": True}),
        (MIXTRAL, {"name": "lora", "target_modules": ["q_proj"]}, {"padding": True}),
        (LLAMA, {"name": "prefix"}, {}),
        (GPT2, TARGETS, {"optimizer": "adafactor", "dtype": "float32"}),
    ],
)
def test_both_engines_find_the_same_bytes(config, method, training):
    request = parse_request(
        {
            "model": {"config": config},
            "method": method,
            "training": {"sequence_length": 64, "micro_batch_size": 2, **training},
            "device": {"gpu": "rtx-4090"},
        }
    )
    document = TraceDocument.from_json(answer(request).to_json())
    assert dict(differences(estimate(request), traced_estimate(request, document))) == {}
    assert document.unchecked == ()


def test_operations_with_workspaces_are_not_validated():
    assert not WITH_WORKSPACE & validated()
