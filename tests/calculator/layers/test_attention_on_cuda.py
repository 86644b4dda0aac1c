"""What fused attention allocates on CUDA, compared with PyTorch's CUDA code on a stub of the runtime."""

from dataclasses import replace

import pytest

from calculator.common.dtype import ITEMSIZE
from calculator.devices.kernels import kernels_of
from calculator.devices.multiprocessors import Multiprocessors, multiprocessors_of
from calculator.engine.autograd import Node
from calculator.engine.tape import Tape
from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.inputs.device import Device
from calculator.inputs.stack import DEFAULT_STACK
from calculator.layers.kernels import efficient, flash
from calculator.layers.split_kv import num_splits

A100, RTX_4090, RTX_5090, B200, T4, V100 = "a100-sxm4-80gb", "rtx-4090", "rtx-5090", "b200", "t4", "v100-sxm2-32gb"


def kernels(card, torch="2.14"):
    return kernels_of(Device(gpu=card, type="cuda"), replace(DEFAULT_STACK, torch=torch), None)


def tape_of(chosen):
    tape = Tape(cuda=True)
    tape.multiprocessors, tape.capability = chosen.multiprocessors, chosen.capability
    tape.efficient_state_on_gpu = chosen.efficient_state_on_gpu
    return tape


def recorded(tape, run):
    """Return what a function returns, and the bytes that it allocates and frees meanwhile, in order."""
    first = len(tape.events)
    result = run()
    found = []
    for event in tape.events[first:]:
        _, shape, dtype, *_ = tape.rows[max(event, ~event)]
        size = ITEMSIZE[dtype]
        for length in shape:
            size *= length
        found.append(f"{'-' if event < 0 else '+'}{size}")
    return result, " ".join(found)


def attention(card, heads, groups, head_dim, *, dtype="bfloat16", masked=False, dropout=0.0, torch="2.14"):
    """Return what the forward and the backward pass of 300 positions allocate and free."""
    chosen = kernels(card, torch)
    tape = tape_of(chosen)
    leaf = Node(tape, None, ())
    query, key, value = (tape.new((1, n, 300, head_dim), dtype, "input", leaf) for n in (heads, groups, groups))
    bias = tape.new((1, 1, 300, 300), dtype, "bias") if masked else None

    def forward():
        if dtype != "float32" and not masked and chosen.flash_trains(head_dim, drops=bool(dropout)):
            return flash(query, key, value, dropout=dropout)
        return efficient(query, key, value, bias, dropout=dropout)

    out, of_forward = recorded(tape, forward)
    grad = tape.new(query.shape, dtype, "gradient of the output")
    _gradients, of_backward = recorded(tape, lambda: out.edge[0].apply(out.edge[0], grad))
    return of_forward, of_backward


MASKED = {"masked": True}
HALF = {"dtype": "float16", **MASKED}


#: Requested bytes in the allocator's trace, on the stub: PyTorch 2.14.1 and 2.13.0.
@pytest.mark.parametrize(
    ("card", "heads", "head_dim", "options", "of_forward", "of_backward"),
    [
        # Flash splits the keys. With dropout it does not, and has its state twice.
        (
            *(A100, (4, 4), 256, {}),
            "+614400 +4800 +24000 +6144000 +16 +8 -24000 -6144000",
            "+614400 +614400 +614400 +6144 +1572864 -1572864 -6144",
        ),
        (
            *(A100, (4, 4), 192, {"dropout": 0.1}),
            "+460800 +4800 +16 +8 +16 -16",
            "+460800 +460800 +460800 +6144 +1179648 -1179648 -6144",
        ),
        # The memory-efficient kernel of an A100, and that of GPUs with less shared memory.
        (
            *(A100, (8, 8), 96, MASKED),
            "+8 +8 +460800 +10240",
            "+460800 +460800 +460800 +9600 +1573248 -9600 -1573248",
        ),
        (
            *(B200, (8, 8), 128, HALF),
            "+8 +8 +614400 +10240",
            "+614400 +614400 +614400 +9600 +1573248 -9600 -1573248",
        ),
        (
            *(RTX_4090, (8, 8), 96, HALF),
            "+8 +8 +460800 +10240",
            "+460800 +460800 +460800 +9600 +1573632 -9600 -1573632",
        ),
        (
            *(RTX_4090, (8, 8), 96, {**HALF, "dropout": 0.1}),
            "+460800 +10240",
            "+460800 +460800 +460800 +9600 +3933440 -9600 -3933440",
        ),
        (
            *(RTX_5090, (8, 8), 96, MASKED),
            "+8 +8 +460800 +10240",
            "+460800 +460800 +460800 +9600 +3933440 -9600 -3933440",
        ),
        (
            *(T4, (8, 8), 128, HALF),
            "+8 +8 +614400 +10240",
            "+614400 +614400 +614400 +9600 +1573632 -9600 -1573632",
        ),
        # Large heads have a float32 output. On compute capability 7.0, delta is computed before the kernel.
        (
            *(RTX_5090, (8, 8), 200, {**MASKED, "torch": "2.13"}),
            "+960000 +10240 +1920000 -1920000",
            "+960000 +960000 +960000 +9600 +8390144 -9600 -8390144",
        ),
        (
            *(V100, (8, 8), 256, HALF),
            "+8 +8 +1228800 +10240 +2457600 -2457600",
            (
                "+1228800 +1228800 +1228800 +2457600 +2457600 +2457600 +9600 +9600 -9600 -2457600 -2457600 -2457600"
                " +8390144 -9600 -8390144"
            ),
        ),
        (
            *(A100, (8, 8), 128, {"dtype": "float32", **MASKED}),
            "+8 +8 +1228800 +10240",
            "+1228800 +1228800 +1228800 +1228800 +9600 +9600 -9600 -1228800 +1573632 -9600 -1573632",
        ),
        # Grouped heads.
        (
            *(A100, (4, 2), 64, {"dtype": "float32"}),
            "+8 +8 +307200 +5120",
            (
                "+307200 +153600 +153600 +307200 +307200 +307200 +4800 +4800 -4800 -307200 +328000 -4800 -328000"
                " -307200 -307200"
            ),
        ),
        # Flash does not train some large heads on compute capabilities 8.6, 8.9 and 12.0.
        (
            *(RTX_4090, (4, 4), 200, {}),
            "+8 +8 +480000 +5120 +960000 -960000",
            "+480000 +480000 +480000 +4800 +4195072 -4800 -4195072",
        ),
        (
            *(RTX_5090, (4, 4), 232, {}),
            "+556800 +4800 +24000 +6144000 +16 +8 -24000 -6144000",
            "+556800 +556800 +556800 +6144 +1572864 -1572864 -6144",
        ),
        (
            *(RTX_5090, (4, 4), 232, {"dropout": 0.1}),
            "+556800 +5120 +1113600 -1113600",
            "+556800 +556800 +556800 +4800 +4195072 -4800 -4195072",
        ),
    ],
)
def test_a_kernel_allocates_as_on_cuda(card, heads, head_dim, options, of_forward, of_backward):
    assert attention(card, *heads, head_dim, **options) == (of_forward, of_backward)


NEOX = {"model_type": "gpt_neox", "hidden_size": 256, "num_attention_heads": 4, "rotary_pct": 0.25}
GEMMA = {"model_type": "gemma3_text", "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 1}
GEMMA |= {"head_dim": 256, "sliding_window": 512}
PHI3 = {"model_type": "phi3", "hidden_size": 384, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0}
LLAMA = {"model_type": "llama", "hidden_size": 400, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 100}
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}


def peaks(config, layers, method, card=A100, torch="2.14", kind="cuda", **training):
    sizes = {"intermediate_size": 512, "num_hidden_layers": layers, "vocab_size": 1024}
    training = {"micro_batch_size": 1, "sequence_length": 512, "max_grad_norm": None, **training}
    body = {"model": {"config": {**config, **sizes}}, "method": method, "training": training}
    body |= {"device": {"gpu": card, "type": kind}, "stack": {"torch": torch}}
    return tuple(peak.bytes for peak in training_step(parse_request(body)).peaks())


#: The most bytes allocated in the phases of a third step on the stub, less the workspaces of cuBLAS: PyTorch 2.14.1
#: with expandable segments, transformers 5.24. It is the same on an RTX 4090.
@pytest.mark.parametrize(
    ("config", "layers", "method", "training", "measured"),
    [
        (NEOX, 3, {"name": "full"}, {}, (27_941_376, 28_984_832, 21_066_752)),
        (NEOX, 3, LORA, {"gradient_checkpointing": True}, (12_227_072, 13_332_992, 6_216_704)),
        (GEMMA, 2, LORA, {}, (42_603_520, 43_383_808, 6_615_552)),
        (PHI3, 2, LORA, {"padding": True}, (30_488_576, 31_138_816, 7_780_864)),
        (LLAMA, 2, LORA, {}, (37_321_728, 36_317_184, 8_566_272)),
        (LLAMA, 2, LORA, {"padding": True}, (47_203_328, 46_225_920, 8_570_368)),
    ],
)
@pytest.mark.parametrize("card", [A100, RTX_4090])
def test_peaks_of_a_step_are_those_of_cuda(card, config, layers, method, training, measured):
    assert peaks(config, layers, method, card, **training) == measured


def test_figures_on_the_meta_device_depend_on_no_gpu():
    found = {peaks(NEOX, 3, LORA, card, kind="meta") for card in (A100, RTX_4090, RTX_5090)}
    assert len(found) == 1


@pytest.mark.parametrize(
    ("blocks", "slots", "key_blocks", "splits"),
    # Four heads of 300 positions and of 256 numbers, and others, on an A100. 173 blocks keep it busy.
    [(20, 216, 5, 5), (64, 216, 8, 3), (8, 216, 2, 2), (1, 216, 256, 128)],
)
def test_keys_are_split_over_the_multiprocessors(blocks, slots, key_blocks, splits):
    assert num_splits(blocks, slots, key_blocks) == splits


@pytest.mark.parametrize(("length", "splits"), [(2688, 6), (2752, 6), (2753, 0)])
def test_enough_blocks_of_queries_are_not_split(length, splits):
    tape = tape_of(kernels(A100))
    query, key, value = (tape.new((1, 4, length, 64), "bfloat16", "input") for _ in range(3))
    flash(query, key, value)
    rows = [row for row in tape.rows if row[0].endswith("of splits")]
    assert [row[1][0] for row in rows] == [splits] * 2 if splits else rows == []


def test_the_multiprocessors_are_those_of_the_gpu_or_of_an_a100():
    assert kernels(RTX_4090).multiprocessors == Multiprocessors(count=128, threads=1536, assumed=False)
    assert kernels("gb300").multiprocessors == Multiprocessors(count=108, threads=2048)
    assert kernels_of(Device(gpu=RTX_4090), DEFAULT_STACK, None).multiprocessors == multiprocessors_of(None)


#: Source: flash_api.cpp of PyTorch 2.6, mha_fwd (head_size_rounded).
@pytest.mark.parametrize(("state_on_gpu", "width"), [(True, 192), (False, 160)])
def test_flash_of_pytorch_2_6_pads_large_heads_less(state_on_gpu, width):
    tape = tape_of(kernels(A100))
    tape.flash_state_on_gpu = state_on_gpu
    query, key, value = (tape.new((1, 4, 300, 160), "bfloat16", "input") for _ in range(3))
    flash(query, key, value)
    assert [row[1][-1] for row in tape.rows if row[0].endswith("output of splits")] == [width]


def test_no_fused_kernel_of_pytorch_2_6_runs_on_blackwell():
    old, new = kernels(B200, "2.6"), kernels(B200, "2.7")
    assert (old.flash, old.efficient) == (False, False)
    assert (new.flash, new.efficient) == (True, True)
