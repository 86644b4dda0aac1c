"""The events of a step under ZeRO against traces: DeepSpeed's own tensors, and those on streams of their own."""

import pytest

from calculator.estimation.estimate import resident_state
from calculator.estimation.sharded_request import parse_sharded_request
from calculator.sharding.zero.state import PREFIX
from calculator.training_step.replayed_step import step_of

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
GATHERED = {"stage3_param_persistence_threshold": 100, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
OFFLOADED = {"offload_optimizer": {"device": "cpu"}}

CASES = [
    ("zero1", {}, {"gradient_accumulation_steps": 3}, None),
    ("zero1", {"overlap_comm": True}, {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}, None),
    ("zero2", {"overlap_comm": True}, {"gradient_accumulation_steps": 3}, LORA),
    ("zero1", OFFLOADED, {}, None),
    ("zero2", {**OFFLOADED, "overlap_comm": True}, {"gradient_accumulation_steps": 3}, None),
    ("zero2", {**OFFLOADED, "overlap_comm": True}, {}, LORA),
    ("zero3", GATHERED, {}, None),
    ("zero3", {**GATHERED, "stage3_prefetch_bucket_size": 30_000}, {"gradient_accumulation_steps": 3}, LORA),
]


def in_order(events):
    """Events, with frees next to each other by size: DeepSpeed iterates over sets of parameters."""
    found, freed = [], []
    for is_born, size in events:
        if not is_born:
            freed.append(size)
            continue
        found += [*sorted(freed), (size,)]
        freed = []
    return [*found, *sorted(freed)]


@pytest.mark.parametrize(("sharding", "zero", "training", "method"), CASES)
def test_a_step_allocates_what_deepspeed_does_in_its_order(sharding, zero, training, method):
    pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    from validation.sharding.trace import trace

    sharded = parse_sharded_request(
        {
            "model": {"config": CONFIG},
            "method": method or {"name": "full"},
            "training": {
                "sequence_length": 64,
                "autocast": "bfloat16",
                "deepspeed": {"zero_optimization": {"reduce_bucket_size": 30_000, **zero}},
                **training,
            },
            "device": {"count": 3, "sharding": sharding},
        }
    )
    step = step_of(resident_state(sharded.request), 1)
    ledger = trace(sharded, 1).ledger
    starts = {phase: at for at, phase in reversed(ledger.phase_starts)}
    events = ledger.events[starts["forward"] : starts["optimizer_step"]]
    born = {*events}
    real = [(event >= 0, ledger.storages[max(event, ~event)]) for event in events if max(event, ~event) in born]
    rows, streams = step.events.rows, step.events.streams
    modeled = [(event >= 0, max(event, ~event)) for event in step.events.events[: step.update]]
    first = [
        (is_born, rows[row][4]) for is_born, row in modeled if not streams[row] and rows[row][0].startswith(PREFIX)
    ]
    added = [(is_born, event.bytes) for is_born, event in real if not event.stream and not event.op.startswith("aten")]
    assert first == added
    names = {event.stream for _, event in real if event.stream}
    traced = [
        in_order((is_born, event.bytes) for is_born, event in real if event.stream == name) for name in sorted(names)
    ]
    ours = [
        in_order((is_born, rows[row][4]) for is_born, row in modeled if streams[row] == n)
        for n in sorted({*streams} - {0})
    ]
    assert traced == ours
