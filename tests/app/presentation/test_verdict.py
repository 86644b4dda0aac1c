"""The sentences about a verdict."""

from app.presentation.format import size
from app.presentation.verdict import communication_sentences, sentence
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


def test_memory_that_an_engine_keeps_is_named_with_the_gpus_whole_memory():
    training = {"trainer": "trl-grpo", "use_vllm": True, "micro_batch_size": 8, "sequence_length": 256}
    body = {**OFFLOADED, "training": training, "device": {"gpu": "rtx-4090"}}
    assert " of the 16.46 GiB that vLLM leaves of 23.52 GiB." in sentence(estimate(parse_request(body)))
    asleep = {**body, "training": {**training, "vllm_enable_sleep_mode": True}}
    assert " of the 23.52 GiB that a process can use." in sentence(estimate(parse_request(asleep)))
