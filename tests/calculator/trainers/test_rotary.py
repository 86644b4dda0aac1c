"""Tensors that scaled rotary embeddings keep from their first forward pass on; traced cases guard its bytes."""

import pytest

from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.resident.tensor import ResidentTensor

LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 64,
}
FACTORS = {"short_factor": [1.0] * 16, "long_factor": [1.0] * 16}
LONGROPE = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 64, **FACTORS}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
LONG, LENGTH = "model.rotary_emb.long_inv_freq", "model.rotary_emb.max_seq_len_cached"


def kept(scaling, stack=None, **training):
    """The names of what the rotary embeddings keep."""
    body = {
        "model": {"config": {**LLAMA, "rope_scaling": scaling}},
        "method": {"name": "full"},
        "training": {"trainer": "transformers", "sequence_length": 64, **training},
        "stack": stack or {},
    }
    tensors = training_step(parse_request(body)).resident.optimizer_states
    names = [tensor.name for tensor in tensors if isinstance(tensor, ResidentTensor)]
    return [name for name in names if name.endswith(("long_inv_freq", "max_seq_len_cached"))]


@pytest.mark.parametrize(
    ("scaling", "training", "names"),
    [
        (LONGROPE, {}, [LONG]),
        (LONGROPE, {"trainer": None}, [LONG]),
        (LONGROPE, {"trainer": "trl-dpo"}, [LONG, f"ref_model.{LONG}"]),
        (LONGROPE, {"trainer": "trl-dpo", "precompute_ref_log_probs": True}, [LONG]),
        (DYNAMIC, {}, []),
        (DYNAMIC, {"sequence_length": 65}, [LENGTH]),
        (DYNAMIC, {"sequence_length": 65, "trainer": None}, [LENGTH]),
        (None, {"sequence_length": 65}, []),
    ],
)
def test_a_run_keeps_what_a_scaled_rotary_embedding_computes_first(scaling, training, names):
    assert kept(scaling, **training) == names


def test_an_older_release_keeps_no_frequencies_of_long_sequences():
    assert kept(LONGROPE, stack={"transformers": "5.0"}) == []
