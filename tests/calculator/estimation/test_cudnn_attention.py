"""Answers for GPUs on which PyTorch prefers cuDNN's attention to flash."""

import pytest

from calculator.devices import gpu
from calculator.devices.kernels import prefers_cudnn
from calculator.estimation.cudnn_attention import Heads, backward_workspace, flash_temporaries
from calculator.estimation.estimate import estimate, resident_state
from calculator.estimation.request import parse_request
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inputs.stack import StackVersions
from calculator.training_step.unrolled import every_event

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 512, "intermediate_size": 1024}
LLAMA = {"model_type": "llama", "vocab_size": 1000, "num_hidden_layers": 3, **HEADS}
H100, B200 = "h100-sxm5-80gb", "b200"


def body(card=H100, torch="2.14", config=LLAMA, **training):
    training = {"micro_batch_size": 2, "sequence_length": 512, **training}
    request = {"model": {"config": config}, "method": {"name": "full"}, "training": training, "reserved": "rule"}
    return {**request, "device": {"gpu": card}, "stack": {"torch": torch}}


def sentences(*args, **training):
    return [line for line in estimate(parse_request(body(*args, **training))).assumptions if "cuDNN" in line]


@pytest.mark.parametrize(
    ("card", "torch", "prefers"),
    [
        (H100, "2.14", True),
        (H100, "2.11", True),
        (H100, "2.10", False),
        (B200, "2.15", True),
        ("b300", "2.14", True),
        ("a100-sxm4-80gb", "2.14", False),
        ("rtx-4090", "2.14", False),
        ("rtx-5090", "2.14", False),
        ("t4", "2.14", False),
    ],
)
def test_pytorch_prefers_cudnn_by_compute_capability_and_release(card, torch, prefers):
    assert prefers_cudnn(gpu(card), StackVersions(torch=torch)) is prefers
    assert bool(sentences(card, torch)) is prefers


@pytest.mark.parametrize("changes", [{"attention": "flash_attention_2"}, {"attention": "eager"}, {"dtype": "float32"}])
def test_other_attention_and_float32_do_not_run_cudnn(changes):
    assert not sentences(**changes)


def test_float32_weights_run_cudnn_under_autocast():
    assert sentences(dtype="float32", autocast="bfloat16")


@pytest.mark.parametrize(
    ("card", "torch", "head_dim", "runs"),
    [
        (H100, "2.14", 100, False),
        (H100, "2.14", 192, False),
        (H100, "2.12", 192, True),
        (H100, "2.14", 256, True),
        (B200, "2.12", 256, False),
        (B200, "2.14", 256, True),
        (H100, "2.14", 512, False),
    ],
)
def test_cudnn_runs_for_the_head_sizes_that_it_trains(card, torch, head_dim, runs):
    assert bool(sentences(card, torch, config={**LLAMA, "head_dim": head_dim})) is runs


#: What plans of cuDNN 9.26 reported for a described GPU.
@pytest.mark.parametrize(
    ("card", "heads", "reported"),
    [
        (H100, Heads(2, 32, 32, 2048, 128, 128), 67_633_408),
        (H100, Heads(2, 32, 8, 2048, 128, 128), 134_742_272),
        (H100, Heads(1, 64, 8, 8192, 128, 128), 538_968_320),
        (H100, Heads(1, 8, 8, 777, 64, 64), 1_616_416),
        (H100, Heads(3, 14, 2, 1000, 64, 64), 21_672_256),
        (H100, Heads(1, 8, 4, 1024, 256, 256), 16_810_240),
        (H100, Heads(1, 8, 8, 16, 128, 128), 66_304),
        (B200, Heads(2, 32, 8, 2048, 128, 128), 134_742_144),
        (B200, Heads(4, 40, 8, 300, 128, 128), 49_344_128),
        (B200, Heads(1, 8, 8, 128, 128, 128), 1_052_800),
    ],
)
def test_the_workspace_is_that_of_cudnns_plans(card, heads, reported):
    assert backward_workspace(gpu(card), heads) == reported


@pytest.mark.parametrize(("groups", "length"), [(8, 512), (2, 512), (2, 300)])
def test_flashs_temporaries_are_those_of_the_step(groups, length):
    config = {**LLAMA, "num_key_value_heads": groups}
    rows = every_event(resident_state(parse_request(body(config=config, sequence_length=length))).prepared).rows
    named = {row[0].rpartition("flash attention: ")[2]: row for row in rows if "flash attention: " in row[0]}
    assert set(named) == {"softmax_d", "dq_accum", *(("dk, expanded", "dv, expanded") if groups != 8 else ())}
    itemsize = {"float32": 4, "bfloat16": 2}
    total = 0
    for _, shape, dtype, *_ in named.values():
        size = itemsize[dtype]
        for width in shape:
            size *= int(width)
        total += -(-size // 512) * 512
    assert flash_temporaries(Heads(2, 8, groups, length, 64, 64)) == total


def test_no_peak_is_higher_than_flashs_by_more_than_a_block():
    (line,) = sentences()
    assert "workspace of 4,227,328 bytes" in line
    assert "temporaries of 4,227,072 bytes" in line
    assert "no peak is more than 512 bytes higher" in line
    assert "TORCH_CUDNN_SDPA_DEPRIORITIZED=1" in line


@pytest.mark.parametrize(("torch", "higher"), [("2.14", 512 + 3 * 1024), ("2.15", 512)])
def test_a_mask_adds_the_random_seed_of_each_layer(torch, higher):
    (line,) = sentences(H100, torch, padding=True)
    assert "memory-efficient kernel" in line
    assert f"no peak is more than {higher:,} bytes higher" in line


def test_a_short_sequence_has_a_second_accumulator_on_compute_capability_10():
    (line,) = sentences(B200, sequence_length=128)
    assert "no peak is more than 524,800 bytes higher" in line


def test_an_inference_says_which_kernel_pytorch_prefers():
    for card, count in ((H100, 1), ("a100-sxm4-80gb", 0)):
        answer = inference(parse_inference({"model": "openai-community/gpt2", "device": {"gpu": card}}))
        assert sum("cuDNN" in line for line in answer.assumptions) == count
