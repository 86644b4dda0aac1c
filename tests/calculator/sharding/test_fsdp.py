"""FSDP2: shards, units, gathers and reductions, and what is refused."""

from dataclasses import replace

import pytest

from calculator.common.errors import PlanError
from calculator.engine.repetition import Repetition
from calculator.estimation.estimate import estimate, resident_state, training_step
from calculator.estimation.recent_series import RECENT_SERIES
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.limit_search.limits import limit, parse_limit
from calculator.sharding.fsdp.micro_batch import MicroBatch
from calculator.sharding.fsdp.units import outer_units

CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 390,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4001,
    "tie_word_embeddings": False,
}
LORA = {"name": "lora", "target_modules": "all-linear"}
QLORA = {**LORA, "name": "qlora"}
UNPREPARED = {**QLORA, "prepare_model_for_kbit_training": False}


def request(count=4, method=None, config=CONFIG, sharding="fsdp", **training):
    return parse_request(
        {
            "model": {"config": config},
            "method": method or {"name": "full"},
            "training": {"sequence_length": 64, **training},
            "device": {"count": count, "sharding": sharding},
        }
    )


def phases(*args, **kwargs):
    return {phase.name: phase.peak_bytes for phase in estimate(request(*args, **kwargs)).memory.phases}


def rows(answer):
    return {row.name: row for part in answer.memory.components for row in part.rows}


def weights(*args, **kwargs):
    return {tensor.name: tensor for tensor in resident_state(request(*args, **kwargs)).tensors}


def units(method=None, config=CONFIG):
    return outer_units(resident_state(request(method=method, config=config)).prepared)


def test_a_shard_is_a_part_of_the_first_dimension_rounded_up():
    shard = weights()["lm_head.weight"]
    assert shard.shape == (1001, 128)
    assert shard.parameters == 4001 * 128
    assert weights(64)["model.norm.weight"].shape == (2,)
    assert weights(256)["model.norm.weight"].shape == (1,)


def test_rows_name_the_number_of_ranks():
    found = rows(estimate(request(gradient_checkpointing=True, optimizer="adamw_torch_fused")))
    assert found["lm_head.weight"].formula == "vocab_size / N × hidden_size × 2"
    assert found["lm_head.weight"].bytes == 501 * 512


@pytest.mark.parametrize(
    ("method", "trained", "frozen"),
    [({"name": "full"}, "float32", None), (LORA, "float32", "bfloat16"), (QLORA, "float32", "float32")],
)
def test_mixed_precision_stores_what_is_trained_in_float32(method, trained, frozen):
    found = weights(method=method, autocast="bfloat16")
    assert {tensor.dtype for tensor in found.values() if tensor.trained} == {trained}
    assert frozen is None or found["model.norm.weight"].dtype == frozen


def test_4_bit_weights_are_sharded_in_a_float_type_only():
    whole, sharded = (weights(method={**QLORA, "quant_storage": storage}) for storage in ("uint8", "bfloat16"))
    name = "model.layers.*.mlp.up_proj.weight"
    assert whole[name].bytes == 390 * 128 // 2 // 512 * 512 * 6 + 6 * 512
    assert sharded[name].shape == (390 * 128 // 4 // 4, 1)
    warned = estimate(request(method=QLORA)).warnings
    assert any("does not shard 4-bit weights" in line for line in warned)
    destroyed = estimate(request(method={**QLORA, "quant_storage": "float32"}, autocast="bfloat16")).warnings
    assert any("which destroys them" in line for line in destroyed)


def test_units_outside_the_layers_are_those_that_accelerate_makes():
    full = units()
    assert [unit.name for unit in full.all] == ["model.embed_tokens", "model.norm and lm_head"]
    peft = units(LORA)
    assert [unit.name for unit in peft.all] == ["root", "model.embed_tokens", "lm_head"]
    tied = units(config={**CONFIG, "tie_word_embeddings": True})
    assert [unit.name for unit in tied.all] == ["model.norm and model.embed_tokens and lm_head"]


def test_reshard_after_forward_false_keeps_every_layer_gathered():
    kept = phases(fsdp_config={"reshard_after_forward": False})
    freed = phases()
    gathered = sum(
        tensor.bytes // tensor.count
        for tensor in resident_state(request(1, sharding="none")).tensors
        if tensor.name.startswith("model.layers")
    )
    padding = kept["forward"] - freed["forward"] - 6 * gathered - 4004 * 128 * 2
    assert padding == 6 * 2 * (392 - 390) * 128 * 2
    assert kept["optimizer_step"] == freed["optimizer_step"]


def test_cpu_offload_leaves_gathered_weights_and_activations_on_the_gpu():
    offloaded = estimate(request(autocast="bfloat16", dtype="float32", fsdp_config={"cpu_offload": True}))
    kept = phases(autocast="bfloat16", dtype="float32")
    found = {phase.name: phase.peak_bytes for phase in offloaded.memory.phases}
    state = resident_state(request(autocast="bfloat16", dtype="float32"))
    shards = sum(tensor.bytes for tensor in state.tensors if tensor.trained)
    states = sum(tensor.bytes for tensor in state.optimizer_states)
    assert kept["forward"] - found["forward"] == shards + states
    assert found["optimizer_step"] < 4096
    assert 0 <= shards * 2 + states - offloaded.memory.host_bytes < 512 * 4 * 60
    assert offloaded.parameters == estimate(request(autocast="bfloat16", dtype="float32")).parameters
    assert any("are in host memory" in line for line in offloaded.assumptions)


def test_accumulation_keeps_full_gradients_until_the_last_micro_batch():
    one, many = phases(), phases(gradient_accumulation_steps=4)
    whole = sum(tensor.bytes for tensor in resident_state(request(1, sharding="none")).tensors if tensor.trained)
    assert many["forward"] - one["forward"] == whole
    assert many["optimizer_step"] == one["optimizer_step"]
    two = phases(gradient_accumulation_steps=2)
    assert two["forward"] == many["forward"]


def test_more_ranks_need_less_until_gathered_layers_dominate():
    peaks = [estimate(request(count)).memory.peak_allocated_bytes for count in (2, 4, 16, 64)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] > peaks[0] / 4


def test_each_gpu_gathers_every_unit_twice_and_reduces_gradients_once():
    gathers, reductions = estimate(request(gradient_accumulation_steps=3)).communication
    state = resident_state(request())
    layers = sum(tensor.bytes for tensor in state.whole if "layers.*" in tensor.name and tensor.trained)
    assert reductions.name == "reduce_scatter"
    assert reductions.payload_bytes >= layers
    assert gathers.payload_bytes > 3 * 2 * layers
    once = estimate(request()).communication[0]
    assert gathers.payload_bytes == 3 * once.payload_bytes
    assert once.sent_bytes == -(-once.payload_bytes * 3 // 4)


def test_a_series_answers_as_single_requests_do():
    series = SeriesCache()
    for count, length in ((4, 64), (4, 96), (8, 96), (8, 64)):
        for training in ({}, {"gradient_accumulation_steps": 2}):
            requested = request(count, LORA, sequence_length=length, **training)
            assert estimate(requested, series).memory.phases == estimate(requested, SeriesCache()).memory.phases


def test_the_timeline_has_every_layer_and_reaches_the_peaks():
    memory = estimate(request(gradient_accumulation_steps=3)).memory
    line = memory.line()
    assert len(line) == 2 * (6 + 2) + 1
    for phase in memory.phases:
        assert max(segment.bytes for segment in line if segment.phase == phase.name) == phase.peak_bytes


def test_the_rows_of_a_peak_sum_to_it():
    for training in ({}, {"gradient_accumulation_steps": 2, "autocast": "bfloat16"}, {"gradient_checkpointing": True}):
        memory = estimate(request(**training)).memory
        assert sum(row.bytes for part in memory.components for row in part.rows) == memory.peak_allocated_bytes


def test_reserved_memory_is_by_replay_or_by_the_rule_as_the_answer_states():
    replayed, by_rule = estimate(request()), estimate(replace(request(), reserved="rule"))
    assert (replayed.reserved, by_rule.reserved) == ("replay", "rule")
    assert any("Each stream has blocks of its own" in line for line in replayed.assumptions)
    assert any("the rule counts them together" in line for line in by_rule.assumptions)


def test_a_limit_is_found_under_fsdp():
    body = {"model": {"config": CONFIG}, "method": LORA, "device": {"memory_bytes": 1 << 30, "count": 2}}
    body["device"]["sharding"] = "fsdp"
    found = limit(parse_limit({**body, "training": {"sequence_length": 64}, "solve_for": "micro_batch_size"}))
    assert found.value > 1


@pytest.mark.parametrize(
    ("loc", "kwargs"),
    [
        ("training.fsdp_config", {"sharding": "ddp", "fsdp_config": {}}),
        ("training.optimizer", {"optimizer": "adamw_8bit"}),
        ("training.optimizer", {"trainer": "transformers", "optimizer": "adagrad"}),
        ("training.autocast", {"method": {**LORA, "bias": "all"}, "config": {**CONFIG, "attention_bias": True}}),
        ("method.bias", {"method": {**UNPREPARED, "bias": "all"}, "config": {**CONFIG, "attention_bias": True}}),
        # 4-bit layers cast biases that preparation left in float32, and so their gradients.
        ("method.bias", {"method": {**QLORA, "bias": "lora_only"}, "config": {**CONFIG, "attention_bias": True}}),
        ("training.autocast", {"method": {"name": "prefix"}, "dtype": "float32", "autocast": "bfloat16"}),
        (
            "method.modules_to_save",
            {"method": {**LORA, "modules_to_save": ["lm_head"]}, "config": {**CONFIG, "tie_word_embeddings": True}},
        ),
        ("device.count", {"count": 1}),
        # PEFT hides the final norm, so that the head is a unit of its own, which Liger does not call.
        (
            "training.use_liger_kernel",
            {"method": LORA, "trainer": "transformers", "use_liger_kernel": True, "autocast": "bfloat16"},
        ),
    ],
)
def test_a_refusal_names_its_field(loc, kwargs):
    with pytest.raises(PlanError) as caught:
        estimate(request(**kwargs))
    assert [problem.loc for problem in caught.value.problems] == [loc]


def test_mixed_precision_allows_several_stored_dtypes_of_trained_parameters():
    config = {**CONFIG, "attention_bias": True}
    assert phases(method={**LORA, "bias": "all"}, config=config, autocast="bfloat16")


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ({"name": "full"}, {"autocast": "bfloat16", "gradient_checkpointing": True}),
        (LORA, {"fsdp_config": {"reshard_after_forward": False}}),
        (QLORA, {"gradient_accumulation_steps": 2}),
    ],
)
def test_interpreting_every_layer_gives_the_same_peaks(method, training, monkeypatch):
    deep = {**CONFIG, "num_hidden_layers": 9}
    folded = phases(method=method, config=deep, **training)
    every = Repetition(numbers=tuple(range(9)), start=9, end=9, copies=0)
    monkeypatch.setattr(MicroBatch, "repetition", lambda *_: every)
    RECENT_SERIES.clear()
    assert phases(method=method, config=deep, **training) == folded
    RECENT_SERIES.clear()


def test_one_trained_parameter_of_which_a_trainer_keeps_the_norm_has_no_other_norm():
    body = {"model": {"config": CONFIG}, "method": {"name": "prompt"}, "device": {"count": 64, "sharding": "fsdp"}}
    training = {"trainer": "transformers", "sequence_length": 64, "autocast": "bfloat16"}
    step = training_step(parse_request({**body, "training": training}))
    assert [temporary.name for temporary in step.resident.step_temporaries if not temporary.count] == []


def test_accelerate_finds_no_final_norm_of_llama_4():
    model = {"model": "meta-llama/Llama-4-Scout-17B-16E", "method": {"name": "full"}}
    device = {"count": 8, "sharding": "fsdp"}
    units = outer_units(resident_state(parse_request({**model, "device": device})).prepared)
    assert units.norm is None
    assert [parameter.name for parameter in units.root.parameters] == ["model.norm.weight"]


@pytest.mark.parametrize(
    ("model", "target"),
    [({"config": {**CONFIG, "tie_word_embeddings": True}}, "lm_head"), ("deepseek-ai/DeepSeek-V3", "o_proj")],
    ids=["tied head with an adapter", "buffer of the state dict"],
)
def test_weights_are_not_broadcast_if_accelerate_fails(model, target):
    body = {"model": model, "method": {"name": "lora", "target_modules": [target]}}
    training = {"sequence_length": 64, "fsdp_config": {"cpu_ram_efficient_loading": True}}
    device = {"count": 2, "sharding": "fsdp"}
    with pytest.raises(PlanError) as refused:
        estimate(parse_request({**body, "training": training, "device": device}))
    assert {problem.loc for problem in refused.value.problems} == {"training.fsdp_config.cpu_ram_efficient_loading"}


def test_trained_tokens_of_lora_are_refused_where_the_head_is_tied_to_them():
    """There, fully_shard raises "Cannot concatenate overlapping meshes" (traced with Llama and Gemma 4)."""
    tied, method = {**CONFIG, "tie_word_embeddings": True}, {**LORA, "trainable_token_indices": [1, 2]}
    with pytest.raises(PlanError) as refused:
        estimate(request(method=method, config=tied))
    assert {problem.loc for problem in refused.value.problems} == {"method.trainable_token_indices"}
    assert phases(method=method)
    assert phases(method=method, config=tied, sharding="ddp")
    assert phases(method={"name": "trainable_tokens", "token_indices": [1, 2]}, config=tied)


def test_a_refusal_of_several_gpus_names_the_setting_of_lora():
    with pytest.raises(PlanError, match="LoRA with target_parameters is modeled on one GPU only"):
        estimate(
            parse_request(
                {
                    "model": "Qwen/Qwen3-30B-A3B",
                    "method": {
                        "name": "lora",
                        "target_modules": ["q_proj"],
                        "target_parameters": ["mlp.experts.down_proj"],
                    },
                    "device": {"count": 2, "sharding": "fsdp"},
                }
            )
        )
