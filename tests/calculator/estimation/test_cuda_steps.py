"""Whole steps with `device.type` cuda.

The bytes of the forward pass, the backward pass and the optimizer's step are measured with PyTorch 2.13 on the stub of
an A100 (`python -m validation measure --stub-gpu`), with every block split.
"""

from dataclasses import replace

import pytest

from calculator.estimation.cuda_remarks import COUNTED
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

CUDA = {"gpu": "a100-sxm4-80gb", "type": "cuda"}


def request_of(model, name, options, size, training):
    batch, length = size
    return parse_request(
        {
            "model": model,
            "method": {"name": name, **options},
            "training": {"micro_batch_size": batch, "sequence_length": length, **training},
            "device": CUDA,
            "stack": {"torch": "2.13"},
        }
    )


def peaks(request):
    return tuple(phase.peak_bytes for phase in estimate(request).memory.phases)


@pytest.mark.parametrize(
    ("case", "measured"),
    [
        (
            ("HuggingFaceTB/SmolLM2-135M", "full", {}, (2, 1024), {"gradient_checkpointing": True}),
            (1_894_340_096, 2_095_632_896, 1_345_285_120),
        ),
        (("HuggingFaceTB/SmolLM2-135M", "full", {}, (4, 1024), {}), (5_865_016_832, 6_267_603_456, 1_345_301_504)),
        (
            ("HuggingFaceTB/SmolLM2-135M", "full", {}, (4, 1024), {"padding": True}),
            (6_399_792_640, 6_708_007_424, 1_345_334_272),
        ),
        (
            ("HuggingFaceTB/SmolLM2-135M", "full", {}, (4, 1024), {"dtype": "float32", "autocast": "bfloat16"}),
            (7_757_621_760, 8_056_399_360, 2_690_412_544),
        ),
        (
            ("HuggingFaceTB/SmolLM2-135M", "lora", {"use_dora": True}, (4, 1024), {}),
            (5_515_516_928, 5_913_384_960, 278_841_344),
        ),
        (("openai-community/gpt2", "full", {}, (4, 1024), {}), (5_164_615_168, 5_576_253_952, 1_244_431_360)),
        (("google/gemma-3-270m", "full", {}, (2, 1024), {}), (9_077_243_904, 10_150_944_256, 2_681_094_656)),
        (
            ("Qwen/Qwen2.5-0.5B", "full", {}, (4, 1024), {"gradient_checkpointing": True}),
            (9_393_497_088, 10_638_090_240, 4_940_516_864),
        ),
        (("facebook/opt-350m", "full", {}, (4, 1024), {}), (6_688_364_544, 7_100_126_208, 3_311_997_440)),
        (("bigscience/bloom-560m", "full", {}, (2, 1024), {}), (14_949_214_208, 15_976_784_896, 5_592_162_816)),
    ],
)
def test_each_phase_of_a_step_is_that_of_pytorchs_cuda_code(case, measured):
    assert peaks(request_of(*case)) == measured


def test_an_answer_names_the_sums_that_it_counts():
    request = request_of("google/gemma-3-270m", "full", {}, (4, 1024), {"gradient_checkpointing": True})
    (remark,) = [line for line in estimate(request).assumptions if line.startswith(COUNTED)]
    assert "whose thread blocks have a buffer of up to" in remark
    on_meta = replace(request, device=replace(request.device, type="meta"))
    assert not [line for line in estimate(on_meta).assumptions if "thread blocks" in line]


def test_a_trace_on_the_meta_device_has_no_workspace_of_norms():
    request = request_of("HuggingFaceTB/SmolLM2-135M", "full", {}, (2, 1024), {"optimizer": "adamw_torch_fused"})
    on_meta = replace(request, device=replace(request.device, type="meta"))
    on_cuda, traced = peaks(request), peaks(on_meta)
    assert on_cuda[:2] == traced[:2]
    assert on_cuda[2] > traced[2]
