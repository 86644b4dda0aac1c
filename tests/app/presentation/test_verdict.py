"""The sentences about a verdict."""

from app.presentation.format import size
from app.presentation.verdict import communication_sentences
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

OFFLOADED = {
    "model": "HuggingFaceTB/SmolLM2-135M",
    "method": {"name": "lora"},
    "training": {"trainer": "trl-sft", "sequence_length": 256, "activation_offloading": True},
    "reserved": "rule",
}


def host_sentences(**device):
    answer = estimate(parse_request({**OFFLOADED, "device": device}))
    return answer.memory, list(communication_sentences(answer))


def test_host_memory_is_that_of_the_process_and_of_a_node_with_several():
    memory, alone = host_sentences()
    assert alone == [f"The process also keeps {size(memory.host_bytes)} in host memory."]
    memory, both = host_sentences(count=2, sharding="ddp")
    assert both[-1].endswith(f"in host memory, and those of a node {size(2 * memory.host_bytes)} together.")
