"""ZeRO's stages 1 and 2: partitions, reductions in buckets, the step of each rank, and what is refused."""

import json
import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.inputs.sharding import ZeroOptimization
from calculator.resident.optimizers import OPTIMIZERS
from calculator.resident.tensor import ResidentTensor
from calculator.sharding.zero.backward import At, Hook, Stretch
from calculator.sharding.zero.parameters import Key
from calculator.sharding.zero.partitions import Partitions, Pattern
from calculator.sharding.zero.plan import Stream
from calculator.sharding.zero.state import FlatState
from tests.paths import CASE_FILES

CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4000,
}
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
CASES = [json.loads(line) for line in (CASE_FILES / "sharded.jsonl").read_text().splitlines()]
OF_RANKS = [case for case in CASES if "phases_of_ranks" in case["expected"]]


def request(sharding="zero2", count=4, method=None, zero=None, **training):
    return parse_request(
        {
            "model": {"config": CONFIG},
            "method": method or {"name": "full"},
            "training": {
                "sequence_length": 64,
                "autocast": "bfloat16",
                **({"deepspeed": {"zero_optimization": zero}} if zero else {}),
                **training,
            },
            "device": {"count": count, "sharding": sharding},
        }
    )


def phases(*args, **kwargs):
    return {phase.name: phase.peak_bytes for phase in estimate(request(*args, **kwargs)).memory.phases}


def parameters(*sizes):
    return [(None, Pattern([f"w{number}" for number in range(len(sizes))], sizes))]


@pytest.mark.parametrize("case", OF_RANKS, ids=[case["id"] for case in OF_RANKS])
def test_the_peak_of_every_rank_is_that_of_its_trace(case):
    flat = training_step(parse_request(case["request"])).flat
    found = {str(rank.number): flat.peak_of(rank) for rank in flat.ranks}
    assert found == {rank: max(traced.values()) for rank, traced in case["expected"]["phases_of_ranks"].items()}
    assert flat.peak_rank.number == case["expected"]["rank"]


def test_a_flat_tensor_is_padded_to_two_elements_for_each_rank():
    (group,) = Partitions([parameters(10, 7)], 4).groups
    assert (group.elements, group.padded, group.partition) == (17, 24, 6)
    assert [group.padding(rank) for rank in range(4)] == [0, 0, 1, 6]
    assert [group.owned(rank).slices for rank in range(4)] == [((0, 6),), ((0, 4), (1, 2)), ((0, 5),), ()]


def test_a_rank_copies_every_parameter_that_it_owns_a_part_of():
    (group,) = Partitions([parameters(10, 7)], 4).groups
    assert [group.owned(rank).whole for rank in range(4)] == [10, 17, 7, 0]
    assert Partitions([parameters(2, 2, 2, 2)], 2, round_robin=True).place(Key("w2", None)).ranks == range(1)


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.integers(1, 7),
)
def test_a_rank_owns_of_layers_of_one_kind_what_it_owns_of_parameters_one_by_one(kinds, layers, count):
    patterns = [Pattern([f"w{number}" for number in range(len(sizes))], sizes) for sizes in kinds]
    parts = [(layer, patterns[kind % len(kinds)]) for layer, kind in enumerate(layers)]
    sizes = [size for _, pattern in parts for size in pattern.sizes]
    (group,) = Partitions([parts], count).groups
    for rank in range(count):
        owned, start = group.owned(rank), rank * group.partition
        ends = [*accumulate(sizes)]
        parts_of = [
            min(end, start + group.partition) - max(end - size, start) for end, size in zip(ends, sizes, strict=True)
        ]
        mine = [(part, size) for part, size in zip(parts_of, sizes, strict=True) if part > 0]
        assert (owned.parameters, owned.whole) == (len(mine), sum(size for _, size in mine))
        assert {(at, part) for at, (part, _) in enumerate(mine)} >= {*owned.slices}
        largest = max(((part, at) for at, (part, _) in enumerate(mine)), default=None)
        assert max(((part, at) for at, part in owned.slices), default=None) == largest


@pytest.mark.parametrize("sharding", ["zero1", "zero2"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("bucket", "length"), [(10_000, 1024), (70_000, 64), (70_000, 1024), (10**8, 1024)])
def test_ranks_that_share_a_result_have_the_one_that_each_would_compute(sharding, accumulation, bucket, length):
    sizes = {"gradient_accumulation_steps": accumulation, "sequence_length": length}
    flat = training_step(request(sharding, 24, zero={"reduce_bucket_size": bucket}, **sizes)).flat
    ranks, caches = flat.ranks, (flat._shares, flat._peak_points, flat._state.steps)
    assert len(flat._shares) < 24  # some ranks share
    for rank in ranks:
        for cache in caches:
            cache.clear()
        assert flat._rank(rank.number) == rank


@pytest.mark.parametrize("seed", range(3))
def test_the_peak_of_a_rank_is_the_highest_point_of_its_intervals(seed):
    chance = random.Random(seed)
    flat = training_step(request("zero2", 24, zero={"reduce_bucket_size": 10_000})).flat
    reduction, always = flat._reduction, flat._always[1]
    more = 40 * max(point.bytes for point in reduction.intervals)
    reduction.intervals = [point._replace(bytes=more + chance.randrange(600_000)) for point in reduction.intervals]
    sizes = [point.bytes for point in reduction.intervals]
    for rank in flat.ranks:
        first, (tensors, _) = reduction.reduced[rank.number], flat._state.gradients_of(rank.number)
        gradients = sum(tensor.bytes for tensor in tensors)
        assert rank.peaks[1] == always + max(*sizes[: first + 1], *[size + gradients for size in sizes[first + 1 :]])


def test_gradients_of_a_copy_have_the_places_of_its_parameters():
    sizes = {"a.*.w": 6, "a.*.v": 5, "a.*.norm": 2}
    groups = [["a.*.w", "a.*.v"], ["a.*.norm"]]
    patterns = [Pattern(names, [sizes[name] for name in names]) for names in groups]
    partitions = Partitions([[(layer, pattern) for layer in range(4)] for pattern in patterns], 3)
    at = At(0, 0, 0)
    hooks = [Hook(at, Key(name, 3), 0, at) for name in ("a.*.norm", "a.*.v", "a.*.w")]
    stretch = Stretch(hooks, None, range(4), 0, 1, enters=False)
    stream = Stream(stretch, partitions)
    for copy in range(4):
        moved = [*map(stream.moved_by(copy), stream.places)]
        assert moved == [partitions.place(Key(hook.key.name, 3 - copy)) for hook in hooks]


def test_masters_and_states_are_partitioned_and_weights_are_not():
    rows = {row.name: row for part in estimate(request()).memory.components for row in part.rows}
    trained = estimate(request()).parameters.trainable
    assert rows["DeepSpeed: flat weights"].bytes == pytest.approx(2 * trained, abs=512)
    assert rows["DeepSpeed: master weights"].bytes == pytest.approx(4 * trained / 4, abs=512)
    assert rows["DeepSpeed: master weights: exp_avg"].bytes == pytest.approx(trained, abs=512)
    assert rows["DeepSpeed: master weights"].formula == "(trained parameters, padded) / count × 4"
    assert "stage_1_and_2.py" in rows["DeepSpeed: master weights"].source


def test_the_bucket_has_the_requested_size_and_twice_that_with_overlap():
    sizes = [phases(zero={"reduce_bucket_size": 1 << 24, "overlap_comm": on})["backward"] for on in (False, True)]
    assert sizes[1] - sizes[0] == 2 << 24
    auto = phases(zero={"reduce_bucket_size": "auto"})
    assert auto == phases(zero={"reduce_bucket_size": 128 * 128})


def test_stage_2_frees_gradients_that_stage_1_keeps():
    small = {"reduce_bucket_size": 4096}
    first, second = (phases(name, 64, zero=small, sequence_length=4)["backward"] for name in ("zero1", "zero2"))
    kept = first - second
    trained = estimate(request()).parameters.trainable
    assert kept > trained


def test_accumulation_keeps_a_partition_in_stage_2_and_full_gradients_in_stage_1():
    small, trained = {"reduce_bucket_size": 4096}, estimate(request()).parameters.trainable
    for sharding, least in (("zero1", 2 * trained), ("zero2", 2 * trained // 4)):
        more = (
            phases(sharding, zero=small, gradient_accumulation_steps=4)["forward"]
            - phases(sharding, zero=small)["forward"]
        )
        assert least <= more < 3 * least


@pytest.mark.parametrize("zero", [None, {"reduce_bucket_size": 9000, "overlap_comm": True}], ids=str)
@pytest.mark.parametrize(("sharding", "steps"), [("zero1", 1), ("zero1", 2), ("zero1", 3), ("zero2", 2)])
def test_the_timeline_has_the_peaks_and_a_moment_for_each_layer(sharding, steps, zero):
    memory = estimate(request(sharding, zero=zero, method=LORA, gradient_accumulation_steps=steps)).memory
    for phase in memory.phases:
        assert max(moment.bytes for moment in memory.timeline if moment.phase == phase.name) == phase.peak_bytes
    assert len(memory.timeline) == 2 * (4 + 2)  # no gradient flows from the first layer to the embeddings
    assert sum(part.bytes for part in memory.components) == memory.peak_allocated_bytes


def test_an_answer_does_not_depend_on_the_requests_before_it():
    series = SeriesCache()
    for sharding, count, length in (("zero2", 2, 64), ("zero2", 8, 64), ("zero1", 8, 32), ("zero2", 8, 32)):
        one = request(sharding, count, sequence_length=length)
        assert estimate(one, series).memory == estimate(one, SeriesCache()).memory
    none = parse_request({"model": {"config": CONFIG}, "method": {"name": "full"}, "training": {"sequence_length": 32}})
    assert estimate(none, series).memory == estimate(none, SeriesCache()).memory


def test_every_parameter_is_cast_under_bf16_and_none_without():
    for method in ({"name": "prefix"}, {"name": "prompt"}, {"name": "ia3"}, {**LORA, "name": "qlora"}):
        tensors = training_step(request(method=method)).resident.tensors
        assert {tensor.dtype for tensor in tensors if tensor.parameters} <= {"bfloat16", "uint8"}
    alone = training_step(request(autocast=None, dtype="float32")).resident.tensors
    assert {tensor.dtype for tensor in alone} == {"float32"}


def test_gradients_are_reduced_in_each_micro_batch_of_stage_2_and_weights_gathered_once():
    trained = estimate(request()).parameters.trainable
    for sharding, times in (("zero1", 1), ("zero2", 3)):
        reduced, gathered = estimate(request(sharding, gradient_accumulation_steps=3)).communication
        assert (reduced.name, reduced.payload_bytes) == ("all_reduce", 2 * trained * times)
        assert gathered.name == "all_gather"
        assert gathered.sent_bytes == pytest.approx(2 * trained * 3 / 4, abs=16)


def test_offload_moves_masters_and_states_to_the_host():
    zero = {"reduce_bucket_size": 9000, "offload_optimizer": {"device": "cpu"}}
    here, there = (estimate(request(zero=config)).memory for config in ({"reduce_bucket_size": 9000}, zero))
    trained = estimate(request()).parameters.trainable
    assert here.host_bytes is None
    assert there.host_bytes == pytest.approx((8 + 8 + 2) * trained / 4 + 2 * 4000 * 128, rel=1e-3)
    assert here.phases[0].peak_bytes - there.phases[0].peak_bytes == pytest.approx(
        3 * trained - 2 * 4000 * 128, rel=1e-2
    )
    names = {part.name for part in there.components}
    assert "optimizer_states" not in names
    for phase in there.phases:
        assert max(moment.bytes for moment in there.timeline if moment.phase == phase.name) == phase.peak_bytes


def test_reserved_memory_is_replayed_but_with_offload_in_stage_3_as_the_answer_states():
    offload = {"offload_optimizer": {"device": "cpu"}}
    offloaded = estimate(request(sharding="zero3", zero=offload))
    assert offloaded.reserved == "rule"
    assert any("but not those of stage 3 with offload" in line for line in offloaded.assumptions)
    assert estimate(request(zero=offload)).reserved == "replay"
    answer = estimate(request())
    assert answer.reserved == "replay"
    assert answer.memory.peak_reserved_bytes >= answer.memory.peak_allocated_bytes
    assert any("record_stream" in line for line in answer.assumptions)
    assert any(line.startswith("The figures are for rank") for line in answer.assumptions)
    assert not any("Autocast is on" in line for line in answer.assumptions)


def test_a_trainers_sentences_are_about_the_settings_in_the_request():
    answer = estimate(request(trainer="trl-sft", gradient_checkpointing=True))
    assert not any("bf16=True by default" in line for line in answer.warnings)
    assert not any("not traced" in line for line in answer.warnings)


def test_transformers_values_for_auto_follow_from_the_hidden_size():
    zero = ZeroOptimization(reduce_bucket_size="auto", stage3_prefetch_bucket_size=7)
    assert zero.resolved("reduce_bucket_size", 64) == 4096
    assert zero.resolved("stage3_prefetch_bucket_size", 64) == 7


@pytest.mark.parametrize(
    ("loc", "kwargs"),
    [
        ("training.autocast", {"autocast": None}),
        ("training.autocast", {"autocast": "float16"}),
        ("training.autocast", {"autocast": None, "dtype": "float32", "method": {"name": "qlora", "r": 8}}),
        ("training.optimizer", {"optimizer": "adagrad"}),
        ("training.optimizer", {"optimizer": "sgd", "zero": {"offload_optimizer": {"device": "cpu"}}}),
        ("training.dtype", {"dtype": "float32", "method": {"name": "qlora", "r": 8, "bias": "all"}}),
        ("training.dtype", {"dtype": "float32", "method": {"name": "qlora", "r": 8, "use_dora": True}}),
        ("training.deepspeed.zero_optimization.stage", {"zero": {"stage": 3}}),
        ("training.deepspeed.zero_optimization.contiguous_gradients", {"zero": {"contiguous_gradients": False}}),
        ("training.deepspeed.zero_optimization.offload_param", {"zero": {"offload_param": {"device": "cpu"}}}),
        ("training.deepspeed.zero_optimization.buckets", {"zero": {"buckets": 1}}),
        ("device.count", {"count": 1}),
        ("training.deepspeed", {"sharding": "ddp", "zero": {"stage": 2}}),
    ],
    ids=str,
)
def test_a_refusal_names_its_field(loc, kwargs):
    with pytest.raises(PlanError) as caught:
        estimate(request(**kwargs))
    assert [problem.loc for problem in caught.value.problems] == [loc]


def test_a_rank_whose_parameters_all_get_no_gradient_has_no_buffer_for_gradients():
    tensors = [
        ResidentTensor(
            name=name, shape=(8,), dtype="bfloat16", component="adapter_weights", trained=True, in_graph=used
        )
        for name, used in (("a", True), ("b", False))
    ]
    prepared = training_step(request(count=2)).resident.prepared
    state = FlatState(prepared, tensors, [tensors], OPTIMIZERS["adamw_torch"])
    assert [[gradient.name for part in state.gradients_of(rank) for gradient in part] for rank in range(2)] == [
        ["DeepSpeed: gradients of the partition"],
        ["DeepSpeed: zeros for parameters without a gradient"],
    ]


HYBRID = {
    "model_type": "qwen3_5_text",
    "hidden_size": 256,
    "intermediate_size": 400,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1033,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 24,
    "layer_types": ["full_attention", "linear_attention", "full_attention"] + ["linear_attention"] * 2,
}
HYBRID["layer_types"].append("full_attention")


@pytest.mark.parametrize(
    ("method", "sharding", "traced"),
    [
        ({"name": "full"}, "zero1", {"backward": 1_032_121_344, "optimizer_step": 24_529_408}),
        (
            {"name": "lora", "target_modules": ["q_proj", "out_proj"]},
            "zero2",
            {"forward": 18_454_528, "backward": 1_016_389_120, "optimizer_step": 7_182_848},
        ),
    ],
)
def test_kinds_of_layers_with_equal_counts_have_their_own_parameters(method, sharding, traced):
    """Traced with `python -m validation compare`, DeepSpeed 0.19.8."""
    body = {"model": {"config": HYBRID}, "method": method, "device": {"count": 4, "sharding": sharding}}
    training = {"micro_batch_size": 2, "sequence_length": 64, "autocast": "bfloat16"}
    phases = estimate(parse_request({**body, "training": training, "reserved": "rule"})).memory.phases
    found = {phase.name: phase.peak_bytes for phase in phases}
    assert {name: found[name] for name in traced} == traced


def test_no_number_of_gpus_is_enough_if_whole_weights_need_more_than_one_has():
    """Stages 1 and 2 divide no weights, stage 3 does."""
    for sharding, enough in (("zero1", False), ("zero2", False), ("zero3", True)):
        given = {"gradient_checkpointing": True, "autocast": "bfloat16", "sequence_length": 128}
        body = {"model": "meta-llama/Llama-3.1-70B", "method": {"name": "full"}, "training": given}
        device = {"memory_bytes": 80 * 10**9, "count": 8, "sharding": sharding}
        needed = estimate(parse_request({**body, "device": device})).fit.gpus_needed
        assert (needed is not None) == enough
        assert needed is None or needed > 8
