"""BAdam's own optimizer, and the blocks and bytes that the calculator has of it."""

import pytest

from calculator.estimation.request import parse_request
from calculator.methods.full.badam import blocks
from validation.comparison.compare import estimate
from validation.tracing import snapshot
from validation.tracing.trace import trace

LLAMA = {
    "model_type": "llama", "vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_blocks_are_those_of_block_optimizer(embedding, head):
    package = pytest.importorskip("badam", reason="BAdam is installed in a folder of its own")
    names = [f"model.layers.{n}.{rest}" for n in range(12) for rest in ("mlp.weight", "self_attn.bias")]
    names = ["model.embed_tokens.weight", *names, "model.norm.weight", "lm_head.weight"]
    expected = package.BlockOptimizer.infer_param_groups(None, names, embedding, head)
    found = blocks(((name, 1) for name in names), include_embedding=embedding, include_lm_head=head)
    assert [list(block) for block, _ in found] == expected


def test_a_step_of_block_optimizer_is_as_estimated():
    pytest.importorskip("badam", reason="BAdam is installed in a folder of its own")
    body = {"model": {"config": LLAMA}, "method": {"name": "full", "use_badam": True}}
    request = parse_request({**body, "training": {"sequence_length": 32}})
    assert estimate(request).phases == snapshot.traced(trace(request)).phases
