"""ZeRO-3 follows few of the copies of repeated layers: the figures are those of following every one."""

import random

import pytest

from calculator.engine.repetition import every_layer, repetition
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.sharding.zero3 import followed, gathering, steps
from calculator.sharding.zero3.first_copy import first_copy
from calculator.sharding.zero3.hooks import PartitionedHooks
from calculator.sharding.zero3.numbered_gathering import NumberedGathering
from calculator.sharding.zero3.program import Program

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
GEMMA = {**LLAMA, "model_type": "gemma2", "head_dim": 16, "sliding_window": 32, "query_pre_attn_scalar": 16}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
METHODS = (
    {"name": "full"},
    {"name": "lora", "target_modules": "all-linear", "r": 2},
    {"name": "qlora", "target_modules": ["q_proj"], "r": 2},
)
#: Sizes in elements: a layer has 46,000.
SIZES = {
    "reduce_bucket_size": (1_000, 20_000, 100_000),
    "stage3_max_reuse_distance": (0, 30_000, 200_000),
    "stage3_prefetch_bucket_size": (0, 5_000, 60_000),
    "stage3_param_persistence_threshold": (0, 100, 5_000),
    "stage3_max_live_parameters": (50_000, 10**9),
    "sub_group_size": (50_000, 10**9),
    "reduce_scatter": (True, False),
}


def drawn(seed):
    """A request whose choices a seed decides."""
    draw = random.Random(seed)
    zero = {name: draw.choice(values) for name, values in SIZES.items()}
    if draw.random() < 0.3:
        zero["offload_optimizer"] = {"device": "cpu"}
    training = {
        "sequence_length": 48,
        "autocast": "bfloat16",
        "gradient_checkpointing": draw.random() < 0.5,
        "gradient_accumulation_steps": draw.choice((1, 1, 2, 5)),
        "deepspeed": {"zero_optimization": zero},
    }
    model = {"config": draw.choice((LLAMA, LLAMA, GEMMA))}
    device = {"count": draw.choice((2, 3, 8)), "sharding": "zero3"}
    return {
        "model": model,
        "method": draw.choice(METHODS),
        "training": training,
        "device": device,
        "reserved": "rule",
    }


def drawn_with_experts(seed):
    """Draw requests of Mixtral, whose experts are leaf modules: a distance of reuse spans more layers without them."""
    body = drawn(seed)
    methods = ({"name": "full"}, {"name": "lora", "target_modules": ["q_proj"], "r": 2})
    return body | {"model": {"config": MIXTRAL}, "method": methods[seed % 2]}


def drawn_with_reference(seed):
    """Draw requests of DPOTrainer, whose reference runs between the passes."""
    body = drawn(seed)
    return body | {"training": body["training"] | {"trainer": "trl-dpo"}}


def figures(body):
    answer = estimate(parse_request(body), SeriesCache())
    memory = answer.memory
    return (
        {phase.name: phase.peak_bytes for phase in memory.phases},
        [(moment.operation, moment.bytes) for moment in memory.timeline],
        {component.name: component.bytes for component in memory.components},
        answer.communication,
        memory.peak_reserved_bytes,
        memory.host_bytes,
    )


def follow_all(repetition, _reach):
    yield followed.Followed(repetition=repetition, before=repetition.copies + 1, skipped=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("draw", [drawn_with_experts, drawn_with_reference])
def test_figures_with_experts_or_a_reference_are_those_of_every_copy(draw, seed, monkeypatch):
    few = figures(draw(seed))
    monkeypatch.setattr(steps, "choices", follow_all)
    assert few == figures(draw(seed))


@pytest.mark.parametrize("seed", range(8))
def test_figures_with_skipped_copies_are_those_of_every_copy(seed, monkeypatch):
    few = figures(drawn(seed))
    monkeypatch.setattr(steps, "choices", follow_all)
    assert few == figures(drawn(seed))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("draw", [drawn, drawn_with_experts])
def test_recorded_calls_gather_the_same_as_all_events(draw, seed, monkeypatch):
    request = parse_request(draw(seed + 200))
    monkeypatch.setattr(steps, "_recorded_calls", lambda *_: None)
    at_calls = training_step(request).partitioned.gathering
    monkeypatch.setattr(gathering.Gathering, "_knows_calls", False)
    at_events = training_step(request).partitioned.gathering
    assert bytes_of(at_calls) == bytes_of(at_events)
    assert any(at_calls._recorded_copies._copies_by_window.values())
    assert not at_events._recorded_copies._copies_by_window


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("trainer", [{}, {"trainer": "transformers"}])
@pytest.mark.parametrize("bucket", [700, 5_000, 60_000])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_one_micro_batch_gathers_at_numbered_calls_as_at_all_events(
    method, bucket, trainer, checkpointing, monkeypatch
):
    body = drawn(bucket)
    zero = {"stage3_prefetch_bucket_size": bucket, "stage3_max_live_parameters": 80_000}
    zero |= {"stage3_max_reuse_distance": 30_000 if checkpointing else 200_000}
    training = {"gradient_checkpointing": checkpointing, "deepspeed": {"zero_optimization": zero}, **trainer}
    request = parse_request({**body, "method": method, "training": {"sequence_length": 48, **training}})
    numbered = training_step(request).partitioned
    monkeypatch.setattr(steps, "_recorded_calls", lambda *_: None)
    at_events = training_step(request).partitioned
    assert isinstance(numbered.gathering, NumberedGathering)
    assert isinstance(at_events.gathering, gathering.Gathering)
    assert bytes_of(numbered.gathering) == bytes_of(at_events.gathering)
    assert numbered.gathering.followed == at_events.gathering.followed
    assert numbered.passes.forward == at_events.passes.forward
    assert numbered.passes.backward == at_events.passes.backward


def bytes_of(gathered):
    """The bytes of gathered weights at every moment, and those that gathers send."""
    tracks = [
        [
            (track.before, track.after, [moment[:3] for moment in track.moments])
            for track in (track.whole for track in tracks)
        ]
        for tracks in gathered.passes
    ]
    return tracks, gathered.sent, gathered.at_step, gathered.kept, gathered.persistent


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("model", [LLAMA, {**GEMMA, "tie_word_embeddings": True}])
@pytest.mark.parametrize("method", METHODS)
def test_the_events_of_a_copy_are_those_of_the_program(method, model, checkpointing, monkeypatch):
    programs = []

    def both(*arguments):
        programs.extend((first_copy(*arguments), Program(*arguments, leaves=set())))
        return programs[0]

    monkeypatch.setattr(steps, "first_copy", both)
    training = {"sequence_length": 48, "gradient_checkpointing": checkpointing}
    body = {"model": {"config": model}, "method": method, "training": training}
    training_step(parse_request({**body, "device": {"count": 2, "sharding": "zero3"}}))
    of_copy, of_program = map(events_of, programs)
    assert of_copy == of_program


def events_of(program):
    """The events of a program, with the keys of modules and parameters in place of these."""
    segments = [
        (
            *(segment.start, segment.end, segment.window, segment.active),
            [
                (at, kind, event and event.key, own and own.key, serial)
                for at, kind, event, own, serial in segment.events
            ],
            [module.key for module in segment.fetched],
        )
        for segment in program.segments
    ]
    modules = {key: [parameter.key for parameter in module.parameters] for key, module in program.modules.items()}
    return program.marks, program.forward, program.backward, program.end, program.runs, modules, segments


@pytest.mark.parametrize(("draw", "least"), [(drawn, 6), (drawn_with_experts, 5), (drawn_with_reference, 4)])
def test_many_drawn_requests_skip_copies(draw, least):
    drawn_steps = [training_step(parse_request(draw(seed))) for seed in range(8)]
    skipped = [step.partitioned.gathering.followed.skipped for step in drawn_steps]
    assert sum(count > 0 for count in skipped) >= least


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("reserved", ["rule", "replay"])
def test_figures_equal_those_with_every_layer_interpreted(seed, reserved, monkeypatch):
    body = (drawn, drawn_with_reference)[seed % 2](seed + 100) | {"reserved": reserved}
    few = figures(body)
    monkeypatch.setattr(PartitionedHooks, "repetition", lambda _, classes: every_layer(len(classes)))
    assert few == figures(body)


def test_a_step_that_keeps_what_its_graph_refers_to_is_that_of_one_step_more(monkeypatch):
    zero = {"stage3_prefetch_bucket_size": 5_000, "stage3_max_live_parameters": 50_000}
    for trainer in ({}, {"trainer": "transformers"}):
        training = {"sequence_length": 48, "autocast": "bfloat16", "deepspeed": {"zero_optimization": zero}, **trainer}
        method = {"name": "qlora", "target_modules": "all-linear", "r": 2}
        body = {"model": {"config": LLAMA}, "method": method, "training": training, "reserved": "rule"}
        body |= {"device": {"count": 2, "sharding": "zero3"}}
        monkeypatch.undo()
        few = figures(body)
        monkeypatch.setattr(gathering.Gathering, "_reuses", False)
        assert few == figures(body)


def test_an_80_layer_model_is_followed_in_few_layers():
    body = {"model": "meta-llama/Llama-3.1-70B", "method": {"name": "full"}, "reserved": "rule"}
    body |= {"training": {"autocast": "bfloat16"}, "device": {"count": 8, "sharding": "zero3"}}
    step = training_step(parse_request(body))
    assert len(step.run.repetition.numbers) == 2
    assert len(step.partitioned.gathering.followed.layers()) < 8


def test_the_followed_copies_are_the_first_and_the_last():
    first, second, third, every = followed.choices(repetition((0,) * 60), followed.Reach(ahead=1, reuse=1))
    assert first.numbers == (0, 1, 56, 57, 58)
    assert [len(track.numbers) for track in (second, third, every)] == [7, 13, 59]
    assert first.layers() == {0, 1, 2, 57, 58, 59}
    assert (first.copy_of(0), first.copy_of(1), first.copy_of(59)) == (None, 0, 58)
