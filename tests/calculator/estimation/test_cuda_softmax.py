"""What softmax and the math kernel allocate on CUDA, compared with PyTorch's CUDA code on a stub of the runtime."""

import pytest

from calculator.engine.softmax import softmax_gradient
from calculator.engine.tape import Tape
from calculator.estimation import cuda_remarks
from calculator.estimation.cuda_remarks import COUNTED, NOT_IN_TRACE, trace_remarks
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.step import TrainingStep

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 512, "intermediate_size": 1024}
LLAMA = {"model_type": "llama", "vocab_size": 1000, "num_hidden_layers": 3, **HEADS}
GEMMA2 = {**LLAMA, "model_type": "gemma2", "head_dim": 64, "sliding_window": 4096}
UNGROUPED = {**LLAMA, "num_key_value_heads": 8}
A100, T4 = "a100-sxm4-80gb", "t4"

#: The workspaces of cuBLAS, one for the forward and one for the backward pass.
WORKSPACES = 2 * 8_519_680
EAGER = {"attention": "eager"}
CHECKPOINTED = {"gradient_checkpointing": True}


def body(card=A100, config=LLAMA, **training):
    training = {"micro_batch_size": 2, "sequence_length": 512, **training}
    request = {"model": {"config": config}, "method": {"name": "full"}, "training": training, "reserved": "rule"}
    return {**request, "device": {"gpu": card}}


def typed(kind):
    request = body(**EAGER)
    return parse_request({**request, "device": {**request["device"], "type": kind}})


def steps(*args, **training):
    """Return a request's step, and the same step with what softmax allocates on CUDA."""
    step = training_step(parse_request(body(*args, **training)))
    return step, TrainingStep(ResidentState(step.resident.prepared.on_cuda))


def sentences(*args, **training):
    return [line for line in estimate(parse_request(body(*args, **training))).assumptions if "softmax" in line]


#: torch.cuda.max_memory_allocated() after the forward and after the backward pass of a second step, on the stub:
#: PyTorch 2.13 with expandable segments, transformers 5.24.
@pytest.mark.parametrize(
    ("card", "config", "training", "measured"),
    [
        (A100, LLAMA, EAGER, (217_919_488, 235_942_912)),
        (A100, LLAMA, {**EAGER, "dtype": "float16"}, (217_919_488, 227_554_304)),
        (A100, LLAMA, {**EAGER, "dtype": "float32"}, (291_111_936, 310_112_256)),
        (A100, LLAMA, {**EAGER, **CHECKPOINTED}, (114_313_728, 154_670_080)),
        (A100, GEMMA2, {}, (274_638_336, 280_112_640)),
        (T4, LLAMA, {}, (206_617_600, 228_602_880)),
        (T4, LLAMA, CHECKPOINTED, (117_468_160, 156_767_232)),
        (T4, LLAMA, {"padding": True}, (208_198_656, 228_611_072)),
        (T4, LLAMA, {"padding": True, **CHECKPOINTED}, (119_049_216, 157_299_712)),
        (T4, UNGROUPED, {}, (217_365_504, 235_680_768)),
    ],
)
def test_peaks_on_cuda_are_those_of_cuda(card, config, training, measured):
    _, on_cuda = steps(card, config, **training)
    forward, backward, _ = (peak.bytes for peak in on_cuda.peaks())
    assert (forward + WORKSPACES, backward + WORKSPACES) == measured


#: Bytes on the stub of softmax's backward pass over 4 x 256 x 256 scores, its gradient included.
@pytest.mark.parametrize(
    ("scores", "softmax", "measured"),
    [
        ("float32", "float32", 2_097_152),
        ("bfloat16", "bfloat16", 1_048_576),
        ("float16", "float32", 1_572_864),
    ],
)
def test_the_backward_pass_of_softmax_allocates_as_on_cuda(scores, softmax, measured):
    tape = Tape(cuda=True)
    grad = tape.new((1, 4, 256, 256), softmax, "gradient of the output")
    before = len(tape.rows)
    softmax_gradient(grad, scores)
    assert sum(size for *_, size in tape.rows[before:]) == measured


def test_an_answer_has_the_temporary_and_the_difference_of_the_peak():
    step, on_cuda = steps(**EAGER)
    (sentence,) = sentences(**EAGER)
    difference = max(peak.bytes for peak in on_cuda.peaks()) - max(peak.bytes for peak in step.peaks())
    assert difference == 2 * 8 * 512 * 512 * 4
    assert f"up to {difference:,} bytes here" in sentence
    assert sentence.startswith(f"On CUDA, the peak of allocated memory is {difference:,} bytes higher;")
    assert sentence.endswith("With attention sdpa, a fused kernel needs no such tensor.")


def test_an_answer_whose_peak_is_elsewhere_says_so():
    request = parse_request(body(config={**LLAMA, "vocab_size": 100_000}, **EAGER))
    (sentence,) = [line for line in estimate(request).assumptions if "On CUDA" in line]
    assert sentence.endswith("the peak of allocated memory is the same, at another moment.")


def test_a_family_without_sdpa_is_given_flash_attention_if_the_gpu_has_it():
    (on_a100,), (on_t4,) = sentences(config=GEMMA2), sentences(T4, GEMMA2)
    assert on_a100.endswith("With attention flash_attention_2, the kernel needs no such tensor.")
    assert "bytes higher" in on_t4
    assert "With attention" not in on_t4


def test_the_math_kernel_is_named():
    (sentence,) = sentences(T4)
    assert "The math kernel's forward pass allocates a float32 matrix of scores less, and a copy in" in sentence


@pytest.mark.parametrize("training", [{}, {"attention": "flash_attention_2"}, {"dtype": "float16"}])
def test_fused_attention_has_no_softmax(training):
    assert not sentences(**training)


def test_the_figures_stay_those_of_the_trace():
    step, on_cuda = steps(**EAGER)
    assert step.peaks()[0].bytes == on_cuda.peaks()[0].bytes
    request = parse_request(body(**EAGER))
    assert estimate(request).memory.peak_allocated_bytes == max(peak.bytes for peak in step.peaks())


def test_figures_with_device_type_cuda_count_it_and_say_so():
    _, on_cuda = steps(**EAGER)
    answer = estimate(typed("cuda"))
    assert answer.memory.peak_allocated_bytes == max(peak.bytes for peak in on_cuda.peaks())
    (sentence,) = [line for line in answer.assumptions if "softmax" in line]
    assert sentence.startswith(COUNTED)
    assert f"up to {2 * 8 * 512 * 512 * 4:,} bytes here" in sentence


def test_a_series_of_requests_keeps_both_device_types_apart():
    series = SeriesCache()
    by_type = {kind: estimate(typed(kind)).memory.peak_allocated_bytes for kind in ("meta", "cuda")}
    for kind in ("meta", "cuda", "cuda", "meta", "meta", "cuda"):
        assert estimate(typed(kind), series).memory.peak_allocated_bytes == by_type[kind]


def test_a_step_without_a_difference_is_interpreted_once(monkeypatch):
    monkeypatch.setattr(cuda_remarks, "TrainingStep", None)
    method = {"name": "lora", "target_modules": ["q_proj"]}
    assert estimate(parse_request({**body(), "method": method})).assumptions


def test_an_answer_from_a_trace_says_that_eager_attention_needs_more():
    assert [*trace_remarks(parse_request(body(**EAGER)))]
    assert not [*trace_remarks(parse_request(body()))]
    assert NOT_IN_TRACE in trace_remarks(typed("cuda"))


def test_passes_of_generate_on_the_math_kernel_differ_on_cuda():
    served = {"model": {"config": LLAMA}, "method": {"name": "lora"}, "serving": {"context_length": 1024}}
    meta, cuda = (
        inference(parse_inference({**served, "device": {"gpu": T4, "type": kind}})) for kind in ("meta", "cuda")
    )
    assert meta.memory.peak_allocated_bytes > cuda.memory.peak_allocated_bytes
    assert [line for line in meta.assumptions if "math kernel" in line and "device.type cuda" in line]
    assert COUNTED in cuda.assumptions
    assert not [line for line in meta.assumptions if line == COUNTED]
