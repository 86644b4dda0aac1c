"""Traces of one rank: what DDP and FSDP2 add to the step of one GPU, and what is refused."""

import json
from collections import Counter
from functools import cache

import pytest

from calculator.common.dtype import rounded
from calculator.common.errors import PlanError
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.estimation.sharded_request import parse_sharded_request
from calculator.sharding.streams import STREAMS
from calculator.training_step.step_batches import step_batches
from validation.__main__ import main
from validation.comparison.compare import estimate
from validation.sharding.trace import trace
from validation.tracing.trace import trace as trace_one_gpu

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}
LORA = {"name": "lora", "r": 4, "target_modules": "all-linear"}


def body(sharding, method=None, count=2, **training):
    return {
        "model": {"config": CONFIG},
        "method": method or {"name": "full"},
        "training": {"sequence_length": 64, **training},
        "device": {"count": count, "sharding": sharding},
    }


@cache
def _traced(text, rank):
    return trace(parse_sharded_request(json.loads(text)), rank)


def traced(*args, rank=0, **kwargs):
    return _traced(json.dumps(body(*args, **kwargs)), rank)


def buckets(found):
    return sum(storage.bytes for storage in found.ledger.storages if storage.name.startswith("bucket"))


def test_ddp_adds_the_buckets_to_every_phase_of_the_step_of_one_gpu():
    one = trace_one_gpu(parse_sharded_request(body("ddp")).request)
    found = traced("ddp")
    assert buckets(found) == pytest.approx(2 * found.parameters["trainable"], abs=512)
    assert found.phases == {phase: size + buckets(found) for phase, size in one.phases.items()}


def test_gradients_that_are_views_of_the_buckets_add_nothing_to_the_optimizer_step():
    one = trace_one_gpu(parse_sharded_request(body("ddp")).request)
    views = traced("ddp", ddp={"gradient_as_bucket_view": True})
    gradients = one.static["gradients"]
    assert views.phases["optimizer_step"] == pytest.approx(one.phases["optimizer_step"], abs=gradients // 100)
    assert views.phases["forward"] == one.phases["forward"] + buckets(views)


def test_ddp_builds_the_buckets_in_the_order_of_the_gradients():
    assert [s.name for s in traced("ddp").ledger.storages if s.name.startswith("bucket")] == ["bucket 0"]


def test_fsdp_keeps_a_shard_of_weights_and_states_between_steps():
    two, four = (traced("fsdp", count=count).static for count in (2, 4))
    whole = trace_one_gpu(parse_sharded_request(body("fsdp")).request).static
    buffers = 4096
    for component in ("base_weights", "optimizer_states", "gradients"):
        assert two[component] == pytest.approx(whole[component] / 2, abs=30 * 512 + buffers)
        assert four[component] == pytest.approx(whole[component] / 4, abs=30 * 512 + buffers)


def test_units_are_gathered_for_their_passes_and_named_after_their_parameters():
    names = {s.name for s in traced("fsdp").alive_at_peak("forward")}
    assert {"lm_head.weight: gathered", "model.norm.weight: gathered"} <= names
    assert not {s.name for s in traced("fsdp").alive_at_peak("optimizer_step") if s.name.endswith("gathered")}


def test_gathers_and_reductions_have_their_own_streams():
    streams = {(s.op, s.stream) for s in traced("fsdp").ledger.storages if s.op.startswith("foreach")}
    assert ("foreach_all_gather", "all_gather_copy_in_stream") in streams
    assert ("foreach_reduce", "") in streams
    assert {stream for _, stream in streams} == {*STREAMS}


def in_trace(found):
    """The events of each stream in the micro-batches of a trace."""
    ledger, starts = found.ledger, found.ledger.phase_starts
    end = next(at for at, phase in starts if phase == "optimizer_step")
    rows = [(event >= 0, ledger.storages[max(event, ~event)]) for event in ledger.events[starts[0][0] : end]]
    return {name: [(born, row.bytes) for born, row in rows if row.stream == name] for name in STREAMS}


def in_tape(request):
    """The events of the calculator's tape, with the numbers of their streams."""
    batches = step_batches(resident_state(request))
    played = [
        batch.events() for batch in (batches.first, *[batches.later] * bool(batches.later), batches.last) if batch
    ]
    return [
        (event >= 0, events.rows[max(event, ~event)][4], events.streams[max(event, ~event)] if events.streams else 0)
        for events in played
        for event in (*events.forward, *events.backward)
    ]


def in_calculator(request):
    """Return the events of the calculator's tape."""
    rows = in_tape(request)
    return {
        name: [(born, size) for born, size, stream in rows if stream == number]
        for number, name in enumerate(STREAMS)
        if number
    }


@pytest.mark.parametrize(
    ("method", "training"),
    [
        (None, {"autocast": "bfloat16"}),
        (None, {"gradient_checkpointing": True, "gradient_accumulation_steps": 3}),
        (LORA, {"autocast": "bfloat16", "fsdp_config": {"reshard_after_forward": False}}),
        (LORA, {"autocast": "bfloat16", "fsdp_config": {"cpu_offload": True}}),
        ({**LORA, "name": "qlora", "quant_storage": "bfloat16"}, {"gradient_checkpointing": True}),
    ],
    ids=["full", "accumulated", "gathered", "offloaded", "qlora"],
)
def test_every_stream_allocates_and_frees_in_the_order_of_the_calculators_tape(method, training):
    calculated = in_calculator(parse_sharded_request(body("fsdp", method, **training)).request)
    found = in_trace(traced("fsdp", method, **training))
    assert {name: found[name] for name in STREAMS[1:]} == calculated


def missing(found, request):
    """How often the trace allocates and frees a size where the model computes and the tape does not, and vice versa."""
    tape = Counter((born, size) for born, size, stream in in_tape(request) if not stream)
    real = Counter(in_trace(found)[""])
    return real - tape, tape - real


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("method", [None, LORA], ids=["full", "lora"])
def test_fsdp_adds_no_event_within_the_models_computation_that_the_tape_lacks(method, checkpointed):
    training = {"gradient_checkpointing": checkpointed, **({"adapter_dtype": "model"} if method else {})}
    one = {key: value for key, value in body("none", method, **training).items() if key != "device"}
    one = parse_sharded_request(one).request
    sharded = parse_sharded_request(body("fsdp", method, **training)).request
    assert missing(traced("fsdp", method, **training), sharded) == missing(trace_one_gpu(one), one)


@pytest.mark.parametrize("config", [{}, {"gradient_as_bucket_view": True}, {"find_unused_parameters": True}])
def test_ddp_allocates_on_one_stream(config):
    assert {storage.stream for storage in traced("ddp", ddp=config).ledger.storages} == {""}


def test_weights_that_are_not_resharded_stay_gathered_through_the_step():
    kept = traced("fsdp", fsdp_config={"reshard_after_forward": False})
    whole = 2 * kept.parameters["trainable"]
    assert kept.phases["backward"] - traced("fsdp").phases["backward"] < whole
    gathered = sum(s.bytes for s in kept.alive_at_peak("forward") if s.name.endswith("gathered"))
    assert gathered == pytest.approx(whole, abs=30 * 512)


def test_micro_batches_before_the_last_keep_full_gradients_under_fsdp():
    more = traced("fsdp", gradient_accumulation_steps=4).phases["forward"] - traced("fsdp").phases["forward"]
    assert more == pytest.approx(2 * traced("fsdp").parameters["trainable"], rel=0.05)


def test_four_bit_weights_are_sharded_in_a_float_storage_only():
    qlora = {"name": "qlora", "r": 4, "target_modules": "all-linear"}
    whole, sharded = (traced("fsdp", {**qlora, "quant_storage": storage}).static for storage in ("uint8", "bfloat16"))
    packed = rounded(sum(3 * 64 * 160 + 2 * 64 * 64 + 2 * 64 * 32 for _ in range(3)) // 2)
    assert whole["base_weights"] - sharded["base_weights"] == pytest.approx(packed / 2, rel=0.05)
    assert whole["quantization_constants"] == sharded["quantization_constants"]


def test_the_ranks_of_fsdp_gather_the_same():
    assert traced("fsdp", LORA, rank=1).phases == traced("fsdp", LORA).phases


def test_cpu_offload_leaves_no_shard_gradient_or_state_on_the_device():
    offloaded = traced("fsdp", fsdp_config={"cpu_offload": True})
    assert {offloaded.static.get(name, 0) for name in ("optimizer_states", "gradients")} == {0}
    assert offloaded.phases["optimizer_step"] < 4096
    kept = traced("fsdp")
    state = kept.static["base_weights"] + kept.static["optimizer_states"]
    assert kept.phases["forward"] - offloaded.phases["forward"] == pytest.approx(state, abs=4096)


def test_requests_that_are_not_traced_are_refused_with_their_field():
    for field, request in (
        ("training.optimizer", body("fsdp", optimizer="adamw_8bit")),
        ("training.optimizer", body("fsdp", optimizer="adafactor")),
    ):
        with pytest.raises(PlanError, match=field):
            trace(parse_sharded_request(request))
    with pytest.raises(PlanError, match="rank"):
        trace(parse_sharded_request(body("ddp")), 2)


def test_the_command_traces_a_rank_and_names_the_streams(tmp_path, capsys):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(body("fsdp")))
    assert main(["trace", str(path), "--rank", "1", "--rows", "40"]) == 0
    shown = capsys.readouterr().out
    assert "foreach_all_gather" in shown
    assert "on all_gather_copy_in_stream" in shown


ZERO = {
    "autocast": "bfloat16",
    "deepspeed": {"zero_optimization": {"reduce_bucket_size": 20_000, "stage3_param_persistence_threshold": 0}},
}


@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
def test_zero_keeps_masters_and_states_of_one_partition(stage):
    pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    found = traced(stage, **ZERO)
    partition = found.parameters["trainable"] // 2
    assert found.static["optimizer_states"] == pytest.approx(12 * partition, rel=0.01)
    weights = 2 * partition * (1 if stage == "zero3" else 2)
    assert found.static["base_weights"] == pytest.approx(weights, rel=0.1)


def test_zero_refuses_half_precision_weights_without_autocast():
    with pytest.raises(PlanError, match=r"training\.autocast"):
        trace(parse_sharded_request(body("zero2")))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ({"name": "vera", "r": 4, "target_modules": ["q_proj"]}, {}),
        ({**LORA, "modules_to_save": ["lm_head"]}, {"static_graph": True}),
        (LORA, {"static_graph": True, "gradient_as_bucket_view": True}),
    ],
)
def test_what_stays_through_a_step_under_ddp_has_the_components_of_an_estimate(method, options):
    request = body("ddp", method, ddp=options)
    assert traced("ddp", method, ddp=options).static == estimate(parse_request(request)).static
