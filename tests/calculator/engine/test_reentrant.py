"""The forward pass of a re-entrant checkpoint has no graph: what a node would refer to is freed with the call."""

from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.unrolled import events

CONFIG = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
CONFIG |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}


def forward(bitsandbytes):
    training = {"sequence_length": 64, "trainer": "transformers", "gradient_checkpointing": True}
    training |= {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
    stack = {"transformers": "4.45.2", "bitsandbytes": bitsandbytes}
    body = {"model": {"config": CONFIG}, "method": {"name": "qlora"}, "training": training, "stack": stack}
    found = events(resident_state(parse_request(body)).prepared)
    return [(event >= 0, found.rows[max(event, ~event)][0]) for event in found.forward]


def test_a_4bit_layer_that_refers_to_its_input_keeps_none_in_the_forward_pass():
    assert forward("0.43.1") == forward("0.43.3")
