"""The traced engine on models that the calculator models: the same bytes."""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.traced.answer import traced_estimate
from calculator.estimation.traced.document import TraceDocument
from validation.traced.engine import answer
from validation.traced.engines import differences

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 300}
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
