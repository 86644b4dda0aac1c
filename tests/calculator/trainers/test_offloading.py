"""TRL's `activation_offloading`: host memory, streams and refusals. Traced steps are in test_traced_trainers."""

import pytest

from calculator.common.errors import PlanError
from calculator.engine.offloading import MAX_FWD_STASH_SIZE, PREVIOUS, RETURNED
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.sharding.streams import OF_OFFLOADING
from calculator.training_step.unrolled import events

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def request(config=CONFIG, **training):
    given = {"trainer": "trl-sft", "micro_batch_size": 2, "sequence_length": 128, "gradient_checkpointing": True}
    lora = {"name": "lora", "target_modules": "all-linear"}
    settings = {"activation_offloading": True, "stack": {}, "device": {}, "method": lora} | training
    stack, device, method = (settings.pop(name) for name in ("stack", "device", "method"))
    body = {
        "model": {"config": config},
        "method": method,
        "stack": stack,
        "device": device,
    }
    return parse_request({**body, "training": given | settings})


def test_pinned_blocks_are_powers_of_two():
    hidden, tokens = 2 * 128 * 256, 2 * 127
    layers = 8 * 2 * hidden  # bfloat16, already a power of two
    norm = 4 * hidden + 4 * 2 * 128
    head = 2 * 65_536 + 2_048  # 254 × 256 bfloat16, and 254 labels in int64
    assert 4 * tokens < 1024
    assert estimate(request()).memory.host_bytes == layers + norm + head
    assert estimate(request(activation_offloading=None)).memory.host_bytes is None


@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_several_gpus_offload_the_same_tensors(sharding):
    device = {"count": 4, "sharding": sharding}
    found = estimate(request(autocast="bfloat16", device=device)).memory
    head = 2 * 1024 * 256 if sharding == "fsdp" else 0  # TRL gathers it by itself
    assert found.host_bytes == estimate(request(autocast="bfloat16")).memory.host_bytes + head
    assert found.peak_reserved_bytes >= found.peak_allocated_bytes


@pytest.mark.parametrize("sharding", ["fsdp", "zero1", "zero2"])
def test_views_of_weights_are_copied_where_a_sharding_replaces_their_storages(sharding):
    def host_bytes(sharding, **training):
        device = {"count": 4, "sharding": sharding}
        return estimate(request(gradient_checkpointing=False, device=device, **training)).memory.host_bytes

    weights = 8 * 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)
    adapters = host_bytes(sharding, autocast="bfloat16") - host_bytes("ddp", adapter_dtype="model") - weights
    assert 0 < adapters < weights / 4


def test_a_head_that_is_trained_is_refused_under_zero_3():
    body = {
        "model": {"config": CONFIG},
        "method": {"name": "full"},
        "training": {
            "trainer": "trl-sft",
            "autocast": "bfloat16",
            "gradient_checkpointing": True,
            "activation_offloading": True,
        },
        "device": {"count": 2, "sharding": "zero3"},
    }
    with pytest.raises(PlanError, match="with a trained lm_head, whose saved weight returns as a plain tensor"):
        estimate(parse_request(body))
    body["device"]["sharding"] = "zero2"
    assert estimate(parse_request(body)).memory.host_bytes


def test_gathers_reductions_and_copied_back_tensors_have_streams_of_their_own():
    prepared = training_step(request(device={"count": 2, "sharding": "fsdp"})).resident.prepared
    found = events(prepared)
    streams = {row[0].rpartition(": ")[2]: stream for row, stream in zip(found.rows, found.streams, strict=True)}
    assert streams[RETURNED] == OF_OFFLOADING
    assert set(found.streams) == {0, 1, 2, OF_OFFLOADING}


def test_copied_back_tensors_have_their_own_stream_and_a_replay_frees_those_of_the_previous_step():
    prepared = training_step(request()).resident.prepared
    found = events(prepared)
    assert {row[0].endswith(RETURNED) for row, stream in zip(found.rows, found.streams, strict=True) if stream} == {
        True
    }
    allocated = [found.rows[event][0] for event in (*found.forward, *found.backward) if event >= 0]
    assert sum(name.endswith(RETURNED) for name in allocated) >= CONFIG["num_hidden_layers"]
    assert not any(name.endswith(PREVIOUS) for name in allocated)


#: Two GPUs under FSDP2, and a model with experts.
FSDP = {"count": 2, "sharding": "fsdp"}
WITH_EXPERTS = {**CONFIG, "model_type": "mixtral", "num_local_experts": 4, "router_aux_loss_coef": 0.0}

#: Two GPUs under ZeRO-3, with LoRA.
ZERO_3 = {"device": {"count": 2, "sharding": "zero3"}, "autocast": "bfloat16"}


#: Re-entrant checkpoints.
REENTRANT = {"use_reentrant": True}


@pytest.mark.parametrize("trainer", ["trl-dpo", "trl-kto"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_several_passes_are_answered_under_zero3(trainer, checkpointed):
    memory = estimate(request(**ZERO_3, trainer=trainer, gradient_checkpointing=checkpointed)).memory
    assert memory.host_bytes
    assert memory.peak_reserved_bytes >= memory.peak_allocated_bytes


def test_a_reentrant_checkpoint_offloads_what_one_layer_saves_too():
    def memory(layers, **training):
        return estimate(request({**CONFIG, "num_hidden_layers": layers}, **training)).memory

    two_inputs = 2 * 2 * 2 * 128 * 256
    plain = [memory(layers).host_bytes for layers in (6, 8)]
    reentrant = [memory(layers, gradient_checkpointing_kwargs=REENTRANT).host_bytes for layers in (6, 8)]
    assert reentrant[1] - reentrant[0] == plain[1] - plain[0] == two_inputs
    assert reentrant[0] > plain[0]


def test_five_layer_inputs_stay_in_the_forward_pass():
    def forward(layers, *, offloads):
        config = {**CONFIG, "num_hidden_layers": layers}
        return estimate(request(config, activation_offloading=offloads)).memory.phases[0].peak_bytes

    def growth(*, offloads):
        return forward(24, offloads=offloads) - forward(12, offloads=offloads)

    assert MAX_FWD_STASH_SIZE < 12
    assert growth(offloads=None) - growth(offloads=True) == 12 * 2 * 2 * 128 * 256


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"device": FSDP, "gradient_checkpointing_kwargs": REENTRANT, "method": {"name": "lora", "use_dora": True}},
            "use_reentrant false",
        ),
        ({"stack": {"trl": "1.9"}}, "1.15 or later"),
        ({"device": FSDP, "gradient_checkpointing": False, "method": {"name": "lora", "use_dora": True}}, "for DoRA"),
        ({"device": FSDP, "gradient_checkpointing": False, "config": WITH_EXPERTS}, "for models with experts"),
        (
            {**ZERO_3, "trainer": "trl-dpo", "method": {"name": "lora", "use_dora": True}},
            "set precompute_ref_log_probs true",
        ),
        (
            {**ZERO_3, "method": {"name": "qlora", "prepare_model_for_kbit_training": False}},
            "gathered weights of its layer",
        ),
    ],
)
def test_what_is_not_modeled_is_refused_with_a_solution(given, message):
    with pytest.raises(PlanError) as refused:
        estimate(request(**given))
    (found,) = [problem for problem in refused.value.problems if problem.loc == "training.activation_offloading"]
    assert message in found.msg


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bloom", "hidden_size": 256, "n_layer": 2, "n_head": 4, "vocab_size": 900},
        {**CONFIG, "model_type": "lfm2", "full_attn_idxs": [2]},
    ],
)
def test_layouts_that_are_not_modeled_need_checkpointing(config):
    with pytest.raises(PlanError, match="set gradient_checkpointing true"):
        estimate(request(config, gradient_checkpointing=False))


def test_without_checkpointing_less_of_each_layer_stays():
    def backward(layers, **training):
        config = {**CONFIG, "num_hidden_layers": layers}
        phases = estimate(request(config, gradient_checkpointing=False, **training)).memory.phases
        return next(phase for phase in phases if phase.name == "backward").peak_bytes

    def growth(**training):
        return backward(16, **training) - backward(8, **training)

    assert growth() < 0.6 * growth(activation_offloading=None)  # what is saved twice stays
    assert estimate(request(gradient_checkpointing=False)).memory.host_bytes > estimate(request()).memory.host_bytes


def test_layers_that_save_a_second_tensor_are_refused():
    config = {"model_type": "gpt2", "n_embd": 192, "n_layer": 3, "n_head": 4, "vocab_size": 900}
    assert estimate(request(config)).memory.host_bytes
    with pytest.raises(PlanError, match="a mask as a positional argument"):
        estimate(request(config, padding=True))
