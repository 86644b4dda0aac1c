"""LoRA over a base in 8 bits. tests/cases/int8.jsonl and trainers.jsonl have traced steps."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

LLAMA = "meta-llama/Llama-3.2-1B"


def body(method=None, **training):
    return {
        "model": LLAMA,
        "method": {"name": "lora", "load_in_8bit": True, **(method or {})},
        "training": {"sequence_length": 64, **training},
        "reserved": "rule",
    }


def answer(method=None, **training):
    return estimate(parse_request(body(method, **training)))


def refusals(**changed):
    with pytest.raises(PlanError) as error:
        estimate(parse_request({**body(), **changed}))
    return [(problem.loc, problem.msg) for problem in error.value.problems]


def component(plan, name):
    return sum(component.bytes for component in plan.memory.components if component.name == name)


def test_a_weight_is_one_byte_and_each_output_has_a_scale():
    """Llama 3.2 1B: 7 matrices in each of 16 layers; the embedding, which is the head too, and norms are in float32."""
    plan = answer()
    rows = 2048 + 512 + 512 + 2048 + 8192 + 8192 + 2048
    packed = 2048 * rows - 2048 * 2048 + 8192 * 2048
    assert component(plan, "quantization_constants") == 16 * 4 * rows
    dense = 4 * (128_256 * 2048 + 33 * 2048)
    assert component(plan, "base_weights") == 16 * packed + dense + 2 * 512  # with inv_freq and its original
    unprepared = answer({"prepare_model_for_kbit_training": False})
    assert component(unprepared, "base_weights") == 16 * packed + dense // 2 + 2 * 512


def test_checkpointing_keeps_the_inputs_of_layers_in_8_bits_unless_it_is_reentrant():
    method, training = {"target_modules": "all-linear"}, {"trainer": "transformers", "sequence_length": 2048}
    kept = answer(method, **training, gradient_checkpointing=True)
    freed = answer(
        method, **training, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True}
    )
    inputs = 16 * 2048 * 4 * (5 * 2048 + 8192)  # what q, k and v share, that of o, gate and up share, and that of down
    assert kept.memory.peak_allocated_bytes - freed.memory.peak_allocated_bytes > inputs // 4
    assert any("does not see it" in warning for warning in kept.warnings)
    assert not any("does not see it" in warning for warning in freed.warnings)


@pytest.mark.parametrize(
    ("changed", "loc", "why"),
    [
        ({"device": {"count": 2, "sharding": "ddp"}}, "device.count", "with load_in_8bit is modeled on one GPU only"),
        ({"stack": {"transformers": "5.20"}}, "stack", "default releases only"),
        ({"accounting": "textbook"}, "accounting", "the base of LoRA with load_in_8bit"),
        ({"task": "seq_cls"}, "task", "causal_lm only"),
    ],
    ids=str,
)
def test_settings_that_are_not_modeled_are_refused(changed, loc, why):
    found = refusals(**changed)
    assert loc in [where for where, _ in found]
    assert any(why in message for _, message in found)


@pytest.mark.parametrize(
    ("method", "loc", "why"),
    [
        ({"modules_to_save": ["q_proj"]}, "method.modules_to_save", "q_proj is stored in 8 bits"),
        ({"init_lora_weights": "pissa"}, "method.init_lora_weights", "16 or 32 bits only"),
    ],
    ids=str,
)
def test_methods_that_peft_refuses_over_8_bits_are_refused(method, loc, why):
    ((where, message),) = refusals(method=body(method)["method"])
    assert (where, why in message) == (loc, True)


def test_outliers_are_an_assumption():
    assert any("without outliers" in assumption for assumption in answer().assumptions)
    assert not any("without outliers" in assumption for assumption in answer({"load_in_8bit": False}).assumptions)


def test_biases_under_autocast_are_a_warning_if_there_are_any():
    def warned(model):
        request = {**body(autocast="bfloat16"), "model": model}
        return any("casts the bias" in warning for warning in estimate(parse_request(request)).warnings)

    assert (warned("Qwen/Qwen2.5-0.5B"), warned(LLAMA)) == (True, False)


@pytest.mark.parametrize(
    ("model", "method", "floats"),
    [
        # 12 biases of 768: of attention's output in bfloat16
        ("openai-community/gpt2", {}, -12 * 768 // 2),
        # in bfloat16 all but those of attention's output become float32: those of c_attn, c_fc and c_proj
        ("openai-community/gpt2", {"prepare_model_for_kbit_training": False}, 12 * (3 + 4 + 1) * 768 // 2),
        ("Qwen/Qwen2.5-0.5B", {"prepare_model_for_kbit_training": False}, 0),
    ],
)
def test_autocast_decides_the_dtype_of_biases_of_layers_in_8_bits(model, method, floats):
    def weights(**training):
        return component(estimate(parse_request({**body(method, **training), "model": model})), "base_weights")

    assert weights(autocast="bfloat16") - weights() == 4 * floats
