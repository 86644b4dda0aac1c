"""LoRA over a base in AWQ."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request


def body(method=None, **training):
    lora = {"name": "lora", "quantization_config": {"quant_method": "awq"}, **(method or {})}
    settings = {"dtype": "float16", "sequence_length": 512, "gradient_checkpointing": True, **training}
    return {"model": "Qwen/Qwen2.5-7B-Instruct", "method": lora, "training": settings, "reserved": "rule"}


def test_preparation_casts_what_is_not_quantized_to_float32():
    prepared, plain = (
        estimate(parse_request(body({"prepare_model_for_kbit_training": value}))).memory.components
        for value in (True, False)
    )
    bytes_of = ({part.name: part.bytes for part in parts}["base_weights"] for parts in (prepared, plain))
    assert next(bytes_of) - next(bytes_of) == 2 * (2 * 152_064 * 3584 + (2 * 28 + 1) * 3584)


def test_more_tokens_need_less_if_the_kernel_sums_no_parts():
    """Eight parts of 1,024 rows in float32 are 32 KiB for each output: more than a dense column and another row."""
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "llama", "vocab_size": 64, **sizes}
    few, more = (
        next(phase.peak_bytes for phase in estimate(parse_request(request)).memory.phases)
        for request in ({**body(sequence_length=length), "model": {"config": config}} for length in (1024, 1025))
    )
    assert few > more
    assert any("From source only" in assumption for assumption in estimate(parse_request(body())).assumptions)


@pytest.mark.parametrize(
    ("changes", "loc", "why"),
    [
        ({"training": {"dtype": "bfloat16"}}, "training.dtype", "use float16"),
        ({"training": {"dtype": "float32", "autocast": "float16"}}, "training.autocast", "without autocast"),
        ({"method": {"quantization_config": {"quant_method": "awq", "bits": 8}}}, ".bits", "use 4"),
        ({"method": {"quantization_config": {"quant_method": "awq", "group_size": 256}}}, ".group_size", "no kernel"),
        ({"method": {"target_modules": "all-linear"}}, "method.target_modules", "no torch.nn.Linear"),
    ],
    ids=str,
)
def test_combinations_that_the_libraries_refuse_are_refused(changes, loc, why):
    with pytest.raises(PlanError) as caught:
        estimate(parse_request(body(changes.get("method"), **changes.get("training", {}))))
    (problem,) = caught.value.problems
    assert problem.loc.endswith(loc)
    assert why in problem.msg


def test_families_with_scaled_activations_are_refused():
    neox = {**body(), "model": "EleutherAI/pythia-410m"}
    with pytest.raises(PlanError, match="scales activations of gpt_neox"):
        estimate(parse_request(neox))
