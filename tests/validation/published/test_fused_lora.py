"""IBM's fused LoRA functions: what they save, what they overwrite, and where they are used."""

from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from validation.published.fast_kernels import patched

TOKENS, WIDTH = 2 * 256, 2048


def rows(dropout, name="qlora"):
    method = {"name": name, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "lora_dropout": dropout}
    if name == "qlora":
        method["prepare_model_for_kbit_training"] = False
    request = parse_request(
        {
            "model": "meta-llama/Llama-3.2-1B",
            "method": method,
            "training": {
                "micro_batch_size": 2,
                "sequence_length": 256,
                "trainer": "transformers",
                "autocast": "bfloat16",
            },
            "stack": {"transformers": "4.48"},
        }
    )
    with patched("fast_kernels"):
        return training_step(request, SeriesCache()).run.rows


def test_each_module_saves_its_dropped_input():
    dropped = [row for row in rows(0.1) if row[0].endswith("_proj: input, dropped out")]
    assert {row[0].rpartition(".")[2].partition(":")[0] for row in dropped} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {row[4] for row in dropped} == {TOKENS * WIDTH * 2}
    assert not [row for row in rows(0.0) if "dropped out" in row[0]]


def test_an_update_is_a_tensor_of_its_own():
    updates = {row[0].rpartition(".")[2]: row[4] for row in rows(0.0) if row[0].endswith("_proj: update")}
    assert updates["q_proj: update"] == TOKENS * WIDTH * 2
    assert updates["v_proj: update"] == TOKENS * WIDTH // 4 * 2


def test_the_gradient_of_the_input_of_attention_overwrites_it():
    new = {row[0] for row in rows(0.0) if row[0].endswith("input: gradient") and "self_attn" in row[0]}
    assert len(new) == 1


def test_lora_of_dense_weights_is_not_fused():
    assert not [row for row in rows(0.1, "lora") if row[0].endswith(": update")]
