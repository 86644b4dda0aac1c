"""What differs in the step of Unsloth 2026.10: rows without padding, labeled tokens, and what PyTorch decides."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inputs.stack import DEFAULT_STACK

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDTH, MLP, VOCABULARY = 1024, 4096, 40_000
CONFIG = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": MLP,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
B, S = 2, 2000


def body(method="lora", config=None, settings=None, stack=None, **training):
    return {
        "model": {"config": {**CONFIG, **(config or {})}},
        "method": {"name": method, "r": 8, "target_modules": TARGETS, **(settings or {})},
        "training": {
            "trainer": "unsloth",
            "autocast": "bfloat16",
            "gradient_checkpointing": True,
            "micro_batch_size": B,
            "sequence_length": S,
            **training,
        },
        "stack": stack or {},
        "reserved": "rule",
    }


def answer(*args, **training):
    return estimate(parse_request(body(*args, **training)))


def rows(*args, **training):
    return {row.name: row.bytes for component in answer(*args, **training).memory.components for row in component.rows}


def test_it_is_the_default_and_2026_8_is_known():
    assert DEFAULT_STACK.unsloth == "2026.10"
    old = answer(stack={"unsloth": "2026.8.13"})
    assert "2026.8.13" in " ".join(old.assumptions)
    assert "2026.10.9" in " ".join(answer().assumptions)
    with pytest.raises(PlanError, match=r"2026\.8 or 2026\.10"):
        answer(stack={"unsloth": "2026.9"})


def test_rows_have_positions_and_bounds_in_place_of_a_mask():
    found = rows()
    assert "attention_mask" not in found
    assert (found["position_ids"], found["packed_seq_lengths"], found["cu_seqlens"]) == (B * S * 8 + 256, 512, 512)


def test_the_loss_reads_labeled_tokens_only():
    peaks = [
        answer(gradient_checkpointing=False, completion_tokens=tokens).memory.phases[0].peak_bytes
        for tokens in (None, B * (S - 1), 500)
    ]
    assert peaks[0] == peaks[1] > peaks[2]
    with pytest.raises(PlanError, match="reads every token"):
        answer(stack={"unsloth": "2026.8"}, completion_tokens=100)


def test_4096_labeled_tokens_are_computed_in_tiles_if_the_head_is_frozen():
    config = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 128_256, "head_dim": 32}
    tiled = rows(config=config, micro_batch_size=3)
    assert tiled["loss: logits of a tile"] == 4096 * 16384 * 4
    trained = rows(config=config, micro_batch_size=3, settings={"modules_to_save": ["lm_head"]})
    assert trained["loss: logits of a chunk"] == 512 * 128_256 * 4


def test_rotary_tables_grow_to_the_tokens_of_the_row():
    def table(batch):
        return rows(micro_batch_size=batch)["model.rotary_emb.multi_gpu_cos_cached"] // (128 * 2)

    assert (table(2), table(3), table(5)) == (4096, 8192, 16384)


def test_one_kernel_dequantizes_weights_and_their_constants():
    assert "ABSMAX_BUFFER" not in rows("qlora")
    assert "ABSMAX_BUFFER" in rows("qlora", stack={"unsloth": "2026.8"})


def test_buffers_for_layer_inputs_are_made_when_the_first_is_moved():
    small = {"micro_batch_size": 1, "sequence_length": 600}
    assert "GPU_BUFFERS" not in rows(**small)
    assert "GPU_BUFFERS" in rows(stack={"unsloth": "2026.8"}, **small)


def test_attention_of_the_high_end_depends_on_pytorch():
    peaks = [
        answer(stack={"torch": torch}, config={"num_key_value_heads": heads}).memory.phases[1].peak_bytes
        for torch in ("2.14", "2.10")
        for heads in (2, 8)
    ]
    assert peaks[0] < peaks[2]
    assert peaks[1] > peaks[3]
    flash = answer(attention="flash_attention_2").memory.interval
    assert len(flash.reasons) == 2
    assert not any("Positions" in reason for reason in flash.reasons)


@pytest.mark.parametrize(
    ("loc", "message", "given"),
    [
        ("stack.torch", "below 2.15", {"stack": {"torch": "2.15"}}),
        ("stack.torch", "2.8 and later", {"stack": {"torch": "2.7"}}),
        (
            "stack.torch",
            "compiles the layers of gemma2",
            {"config": {"model_type": "gemma2", "head_dim": 128}, "attention": "flash_attention_2"},
        ),
        ("training.attention", "flash_attention_2", {"config": {"model_type": "mistral", "sliding_window": 1000}}),
    ],
)
def test_what_is_not_modeled_is_refused(loc, message, given):
    with pytest.raises(PlanError) as raised:
        answer(**given)
    assert any(problem.loc == loc and message in problem.msg for problem in raised.value.problems)


def test_functions_also_run_the_dropout_of_updates():
    """The masks of an update's inputs have a byte for each element, and no weight is dequantized into the buffer."""
    plain, dropped = (answer(gradient_checkpointing=False, settings={"lora_dropout": p}).memory for p in (0.0, 0.1))
    masks = B * S * (2 * (6 * WIDTH + MLP))
    assert dropped.peak_allocated_bytes == plain.peak_allocated_bytes + masks
    assert "WEIGHT_BUFFER" not in rows("qlora", settings={"lora_dropout": 0.1})


def test_gemma_2_is_answered_where_its_layers_are_not_compiled():
    config = {"model_type": "gemma2", "head_dim": 128, "tie_word_embeddings": True}
    assert answer(config=config, attention="flash_attention_2", stack={"torch": "2.10"}).memory.interval is not None
