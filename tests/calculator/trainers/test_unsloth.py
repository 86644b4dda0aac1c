"""The step of Unsloth 2026.8: chunks of the loss, offloaded layer inputs, fused functions, and the interval."""

import math
from dataclasses import replace

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.trainers.unsloth.loss import chunk_size

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDTH, MLP, HEADS, KEYS, VOCABULARY, LAYERS, RANK = 1024, 4096, 8, 2, 1024, 4, 8
CONFIG = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "intermediate_size": MLP,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
B, S = 2, 2048
TRAINING = {
    "trainer": "unsloth",
    "autocast": "bfloat16",
    "gradient_checkpointing": True,
    "optimizer": "adamw_8bit",
    "micro_batch_size": B,
    "sequence_length": S,
}


def request(method="lora", config=CONFIG, settings=None, **training):
    return parse_request(
        {
            "model": {"config": config},
            "method": {"name": method, "r": RANK, "target_modules": TARGETS, **(settings or {})},
            "training": {**TRAINING, **training},
            "stack": {"unsloth": "2026.8"},
            "reserved": "rule",
        }
    )


def memory(method="lora", config=CONFIG, settings=None, **training):
    return estimate(request(method, config, settings, **training)).memory


def lowest(*args, **training):
    return memory(*args, **training).interval.lowest.memory


def rows(found):
    return {row.name: row.bytes for component in found.components for row in component.rows}


@pytest.mark.parametrize(
    ("tokens", "vocabulary"), [(2048, 128256), (8372, 128256), (8373, 128256), (65_536, 151_936), (9, 7)]
)
def test_chunks_are_those_of_a_target_of_4_gib(tokens, vocabulary):
    exact = tokens * vocabulary * 4 / 2**30 / 4
    count = 1 if exact <= 1 else math.ceil(exact / 4) * 4
    assert chunk_size(tokens, vocabulary) == math.ceil(tokens / count)


def test_the_low_end_of_a_loss_has_a_token_and_the_high_end_two_chunks():
    config = {**CONFIG, "vocab_size": 64_000}
    high, low = memory(config=config), lowest(config=config)
    assert (high.peak_phase, low.peak_phase) == ("forward", "backward")
    chunk = B * S * 64_000 * 2
    assert [rows(high)[f"loss: {name}"] for name in ("logits of a chunk", "gradient of a chunk's logits")] == [
        chunk
    ] * 2
    assert high.peak_allocated_bytes > low.peak_allocated_bytes + chunk


def test_the_layers_inputs_are_on_the_host_but_for_the_last_ones():
    """The first layer's input is the output of the embedding, which stays anyway."""
    hidden = B * S * WIDTH * 2
    for end in (memory, lowest):
        offloaded, kept = end(), end(activation_offloading=False)
        buffers = sum(size for name, size in rows(offloaded).items() if name.startswith("GPU_BUFFERS"))
        assert kept.peak_allocated_bytes - offloaded.peak_allocated_bytes == (LAYERS - 2) * hidden - buffers
    assert memory().host_bytes == (LAYERS - 1) * hidden + (200 - LAYERS + 1) * 128 * 1024 * 2
    assert memory(activation_offloading=False).host_bytes is None
    assert rows(memory())["GPU_BUFFERS_B"] == hidden
    assert "GPU_BUFFERS_B" not in rows(lowest())


def test_short_sequences_keep_them_on_the_gpu():
    assert "GPU_BUFFERS" not in rows(memory(sequence_length=511))
    small = rows(memory(micro_batch_size=1, sequence_length=512))
    assert small["GPU_BUFFERS"] == small["GPU_BUFFERS_B"] == 2 * 256 * 2048 * 2


def test_the_low_end_has_what_the_functions_save_and_no_more():
    """Layer L - 1's MLP runs backward: its three large tensors, seven of the hidden size and the keys and values."""
    low, hidden = lowest(), B * S * WIDTH * 2
    large, keys = 3 * B * S * MLP * 2, 2 * B * S * KEYS * 128 * 2
    activations = sum(
        size for name, size in rows(low).items() if name.startswith(("model.layers", "layers:", "model.emb"))
    )
    weights = sum(component.bytes for component in low.components if component.name == "base_weights")
    expected = large + keys + 9 * hidden
    assert activations - weights - _adapters(low) == pytest.approx(expected, rel=0.02)


def _adapters(found):
    names = ("adapter_weights", "gradients", "optimizer_states")
    return sum(component.bytes for component in found.components if component.name in names)


def test_weights_in_4_bits_share_a_buffer_of_the_largest():
    found = rows(memory("qlora"))
    assert (found["WEIGHT_BUFFER"], found["ABSMAX_BUFFER"]) == (MLP * WIDTH * 2, MLP * WIDTH // 64 * 4)
    assert "WEIGHT_BUFFER" not in rows(memory())


def test_weights_that_no_fused_function_reads_have_no_buffer():
    """The MLP is one function only if all three of its projections are adapted."""
    assert rows(memory("qlora", settings={"target_modules": ["q_proj", "k_proj", "v_proj", "up_proj"]}))[
        "WEIGHT_BUFFER"
    ] == (HEADS * 128 * WIDTH * 2)
    assert "WEIGHT_BUFFER" not in rows(memory("qlora", settings={"target_modules": ["up_proj"]}))
    assert "WEIGHT_BUFFER" not in rows(memory("qlora", settings={"lora_dropout": 0.1}))


def test_nothing_is_prepared_for_k_bit_training_and_adapters_stay_in_float32():
    prepared, plain = (
        memory("qlora", settings={"prepare_model_for_kbit_training": is_prepared}) for is_prepared in (True, False)
    )
    assert prepared.peak_allocated_bytes == plain.peak_allocated_bytes
    half = memory(dtype="float16", autocast="float16")
    assert half.peak_allocated_bytes == memory().peak_allocated_bytes


def test_the_answer_is_the_high_end_and_says_what_decides():
    answer = estimate(request())
    interval = answer.memory.interval
    assert answer.grade == "modelled as an interval"
    low, high = interval.peak_allocated_bytes
    assert low < high == answer.memory.peak_allocated_bytes
    assert len(interval.reasons) == 4
    assert len(memory(attention="flash_attention_2").interval.reasons) == 3
    assert interval.lowest.memory.interval is None
    assert interval.lowest_verdict is None
    assert not any("right to a millionth" in line for line in answer.assumptions)
    assert (
        estimate(replace(request(), training=replace(request().training, trainer="transformers"))).memory.interval
        is None
    )


def test_modules_that_are_not_fused_run_as_pefts_do():
    fused, partly = lowest(), lowest(settings={"target_modules": TARGETS[:-1]})
    assert partly.peak_allocated_bytes > fused.peak_allocated_bytes
    biased = {**CONFIG, "model_type": "qwen2"}
    assert lowest(config=biased).peak_allocated_bytes >= fused.peak_allocated_bytes
    normed = {**CONFIG, "model_type": "qwen3", "head_dim": 128}
    assert lowest(config=normed).peak_allocated_bytes > fused.peak_allocated_bytes


def test_the_original_of_a_trained_head_is_in_a_file_if_layer_inputs_are_offloaded():
    saved = {"modules_to_save": ["lm_head", "embed_tokens"]}
    table = 2 * VOCABULARY * WIDTH
    in_file, on_gpu = rows(memory(settings=saved)), rows(memory(settings=saved, activation_offloading=False))
    for name in ("lm_head", "model.embed_tokens"):
        assert in_file.get(f"{name}.weight", 0) == 0
        assert (on_gpu[f"{name}.weight"], in_file[f"{name}.modules_to_save.weight"]) == (table, table)


def test_a_trained_head_has_its_gradient_from_the_forward_pass_on():
    config, saved = {**CONFIG, "vocab_size": 64_000}, {"modules_to_save": ["lm_head"]}
    forward = [
        next(phase.peak_bytes for phase in memory(config=config, settings=settings).phases if phase.name == "forward")
        for settings in ({}, saved)
    ]
    states = 2 * 64_000 * WIDTH  # in 8 bits
    assert forward[1] - forward[0] >= 2 * 64_000 * WIDTH + states


@pytest.mark.parametrize(
    ("loc", "message", "given"),
    [
        (
            "training.trainer",
            "modeled for llama, mistral, qwen2, qwen3, gemma, gemma2",
            {"config": {**CONFIG, "model_type": "gemma3_text"}},
        ),
        ("method.use_dora", "not modeled yet", {"settings": {"use_dora": True}}),
        ("method.modules_to_save", "no other modules", {"settings": {"modules_to_save": ["norm"]}}),
        (
            "method.modules_to_save",
            "one table",
            {"settings": {"modules_to_save": ["lm_head"]}, "config": {**CONFIG, "tie_word_embeddings": True}},
        ),
        ("method.target_modules", "gets no gradient", {"settings": {"target_modules": ["lm_head", "q_proj"]}}),
        ("method.quant_type", "nf4", {"method": "qlora", "settings": {"quant_type": "fp4"}}),
        ("method.double_quant", "use true", {"method": "qlora", "settings": {"double_quant": False}}),
        ("method.load_in_8bit", "8 bits", {"settings": {"load_in_8bit": True}}),
        ("training.autocast", "use bfloat16 for both", {"autocast": None}),
        ("training.dtype", "use bfloat16 for both", {"dtype": "float32"}),
        ("training.attention", "flash-attn or xformers", {"attention": "eager"}),
        ("training.attention", "without flash-attn 2.6.3", {"config": {**CONFIG, "model_type": "gemma2"}}),
        ("training.padding", "no mask", {"padding": True}),
        ("training.use_liger_kernel", "kernels of its own", {"use_liger_kernel": True}),
        ("training.packing", "the interval without packing contains it", {"packing": True}),
        (
            "training.gradient_checkpointing_kwargs.use_reentrant",
            "is re-entrant",
            {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        ),
    ],
)
def test_settings_that_are_not_modeled_are_refused_by_name(loc, message, given):
    with pytest.raises(PlanError) as refused:
        estimate(request(**given))
    (found,) = [problem for problem in refused.value.problems if problem.loc == loc]
    assert message in found.msg


def test_full_fine_tuning_and_other_trainers_offloading_are_refused():
    body = {"model": {"config": CONFIG}, "method": {"name": "full"}, "training": TRAINING}
    with pytest.raises(PlanError, match="with full it compiles the model"):
        estimate(parse_request(body))
    for trainer, reason in (("trl-orpo", "leave it out"), (None, "leave")):
        training = {"trainer": trainer, "activation_offloading": True}
        with pytest.raises(PlanError, match=reason):
            estimate(parse_request({**body, "training": training}))


def test_trl_offloads_nothing_by_default():
    body = {"model": {"config": CONFIG}, "method": {"name": "full"}}
    plain, named = (
        estimate(parse_request({**body, "training": {"trainer": "trl-sft", **option}})).memory.peak_reserved_bytes
        for option in ({}, {"activation_offloading": False})
    )
    assert plain == named
