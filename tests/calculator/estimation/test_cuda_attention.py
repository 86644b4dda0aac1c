"""What an answer says about flash attention on CUDA."""

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

NEOX = {"model_type": "gpt_neox", "hidden_size": 256, "num_attention_heads": 4, "rotary_pct": 0.25, "vocab_size": 64}
NEOX |= {"intermediate_size": 256, "num_hidden_layers": 4}


def sentences(config, words, **device):
    body = {"model": {"config": config}, "method": {"name": "full"}, "device": device, "reserved": "rule"}
    body["training"] = {"micro_batch_size": 1, "sequence_length": 512}
    return [line for line in estimate(parse_request(body)).assumptions if words in line]


def test_an_answer_names_the_copies_of_flash_after_a_partial_rotary_embedding():
    (sentence,) = sentences(NEOX, "partial rotary", type="cuda", gpu="h200-nvl")
    assert "it is copied, 262,144 bytes in each layer that keeps it." in sentence
    (remark,) = sentences(NEOX, "partial rotary")
    assert "On CUDA, the peak of allocated memory is" in remark
    assert sentences({**NEOX, "rotary_pct": 1.0, "model_type": "llama"}, "partial rotary", type="cuda") == []


def test_an_answer_states_over_how_many_multiprocessors_keys_are_split():
    (sentence,) = sentences(NEOX, "splits the keys", type="cuda", gpu="rtx-4090")
    assert "over 128 multiprocessors: up to 1,048,576 bytes" in sentence
    (sentence,) = sentences(NEOX, "splits the keys", type="cuda")
    assert "over 108 multiprocessors, as many as an A100 has: up to 1,048,576 bytes" in sentence
