"""What releases of PyTorch keep on the GPU, as their CUDA code allocates it on a stub of the CUDA runtime."""

import pytest

from calculator.comparison.methods import cards
from calculator.devices import library_workspace, workspaces
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inputs.stack import StackVersions
from validation.measure.step_cases import TINY

LORA = {"target_modules": "all-linear", "r": 16}
MIB = 1 << 20


def request(torch, method, card="h100-sxm5-80gb", **training):
    body = {
        "model": {"config": TINY},
        "method": method,
        "device": {"gpu": card},
        "stack": {"torch": torch},
        "reserved": "replay",
    }
    return parse_request(
        {**body, "reserved": "replay", "training": {"sequence_length": 128, "micro_batch_size": 2, **training}}
    )


def allocated(torch, method, **training):
    """Return the most bytes allocated in a step, with the workspaces that threads keep."""
    memory = estimate(request(torch, method, **training)).memory
    return memory.peak_allocated_bytes + memory.library_workspace_bytes


@pytest.mark.parametrize(
    ("method", "peak", "reserved"),
    [
        ({"name": "full"}, 112_176_128, 153_092_096),
        ({"name": "lora", **LORA}, 77_901_312, 85_983_232),
        ({"name": "qlora", **LORA}, 76_156_416, 109_051_904),
        ({"name": "adapter"}, 69_137_408, 113_246_208),
        ({"name": "prefix"}, 65_306_112, 109_051_904),
        ({"name": "prompt"}, 66_488_320, 109_051_904),
        ({"name": "lora", **LORA, "use_dora": True}, 109_680_640, 127_926_272),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_a_step_with_2_15_needs_what_pytorch_allocates(method, peak, reserved):
    memory = estimate(request("2.15", method)).memory
    assert (memory.peak_allocated_bytes, memory.library_workspace_bytes) == (peak, 0)
    assert memory.peak_reserved_bytes == reserved


@pytest.mark.parametrize(
    ("training", "peak"),
    [({"attention": "eager"}, 82_009_088), ({"padding": True}, 79_213_568)],
    ids=["eager", "padding"],
)
def test_other_attention_with_2_15_needs_what_pytorch_allocates(training, peak):
    assert allocated("2.15", {"name": "lora", **LORA}, **training) == peak


@pytest.mark.parametrize("torch", ["2.6", "2.14"])
def test_before_2_15_threads_keep_workspaces(torch):
    stack = StackVersions(torch=torch)
    assert workspaces(None, stack) == tuple(part.bytes for part in library_workspace(None, stack)) == (8_519_680,) * 2


def test_from_2_15_on_no_thread_keeps_a_workspace():
    stack = StackVersions(torch="2.15")
    assert (workspaces(None, stack), library_workspace(None, stack)) == ((0, 0), ())


@pytest.mark.parametrize("reserved", ["rule", "replay"])
def test_no_pass_of_generate_keeps_a_workspace_with_2_15(reserved):
    body = {"model": {"config": TINY}, "method": {"name": "lora", **LORA}, "reserved": reserved}
    memory = inference(parse_inference({**body, "stack": {"torch": "2.15"}})).memory
    assert memory.library_workspace_bytes == 0
    assert memory.peak_reserved_bytes >= memory.peak_allocated_bytes


def test_fast_and_full_replays_agree_with_2_15():
    ruled = request("2.15", {"name": "lora", **LORA}, gradient_accumulation_steps=2)
    replay = estimate(ruled).memory.replay
    assert replay is not None
    assert replay.outcome(replay.peak_reserved_bytes + replay.context_bytes).result().out_of_memory is None


@pytest.mark.parametrize(("torch", "difference"), [("2.6", -1024), ("2.7", 0), ("2.13", 0), ("2.14", 0)], ids=str)
def test_flash_has_its_state_on_the_gpu_from_2_7_on(torch, difference):
    assert allocated(torch, {"name": "prompt"}) - allocated("2.14", {"name": "prompt"}) == difference * 2


def test_flash_attention_2_has_its_state_on_the_gpu_with_2_6():
    flash = {"attention": "flash_attention_2"}
    assert allocated("2.6", {"name": "lora", **LORA}, **flash) == allocated("2.14", {"name": "lora", **LORA}, **flash)


@pytest.mark.parametrize(
    ("method", "forward", "backward"),
    [
        ({"name": "qlora", **LORA}, 1_874_878_976, 2_073_837_056),
        ({"name": "prefix"}, 1_434_035_200, 1_509_455_872),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_the_memory_efficient_kernel_has_its_state_on_the_gpu_from_2_15_on(method, forward, backward):
    body = {"model": "HuggingFaceTB/SmolLM2-135M", "method": method, "training": {"sequence_length": 1024}}
    phases = estimate(parse_request({**body, "stack": {"torch": "2.15"}})).memory.phases
    assert [phase.peak_bytes for phase in phases[:2]] == [forward, backward]


def test_the_state_of_a_kernel_that_drops_weights_is_on_the_cpu_with_2_15():
    config = {"model_type": "gpt2", "n_embd": 576, "n_layer": 2, "n_head": 9, "vocab_size": 4096, "n_positions": 512}
    body = {"model": {"config": config}, "method": {"name": "full"}, "device": {"gpu": "h100-sxm5-80gb"}}
    training = {"sequence_length": 128, "micro_batch_size": 2, "dtype": "float32"}
    answer = estimate(parse_request({**body, "training": training, "stack": {"torch": "2.15"}}))
    assert answer.memory.peak_allocated_bytes == 215_461_888


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ("2.15", "TORCH_CUBLAS_WORKSPACE_CACHE=1"),
        ("2.12", "made first among free blocks of equal size"),
        ("2.9", "list form of roundup_power2_divisions"),
    ],
)
def test_an_answer_says_how_the_releases_allocation_differs(torch, words):
    body = {"model": {"config": TINY}, "method": {"name": "full"}, "stack": {"torch": torch}}
    device = {"device": {"alloc_conf": "roundup_power2_divisions:[256:4,>:2]"}}
    assert sum(words in line for line in estimate(parse_request({**body, **device})).assumptions) == 1
    usual = estimate(parse_request({**body, **device, "stack": {"torch": "2.13"}}))
    assert not any(words in line for line in usual.assumptions)


def test_a_gpu_with_larger_workspaces_needs_no_less_than_its_own_estimate():
    plan = estimate(request("2.15", {"name": "full"}, card="a100-sxm4-80gb"))
    compared = next(fit for fit in cards(plan) if fit.gpu is not None and fit.gpu.id == "h100-sxm5-80gb")
    own = estimate(request("2.15", {"name": "full"})).memory
    assert compared.usable_bytes - compared.headroom_bytes >= own.peak_allocated_bytes
