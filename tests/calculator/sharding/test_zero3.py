"""ZeRO-3: what is gathered and released around each module, what stays, and what is refused."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.sharding.zero.parameters import Key
from calculator.sharding.zero3.coordinator import Coordinator
from calculator.sharding.zero3.host import PinnedMemory
from calculator.sharding.zero3.parameters import GATHERED, Live, Module, Partitioned
from calculator.sharding.zero3.reduction import Bucket
from calculator.sharding.zero3.sizes import Sizes

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
NONE_STAY = {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}


def request(zero=None, count=4, **changes):
    training = {"sequence_length": 64, "autocast": "bfloat16"}
    training["deepspeed"] = {"zero_optimization": {"reduce_bucket_size": "auto", **(zero or {})}}
    device = {"count": count, "sharding": "zero3"}
    body = {"model": {"config": CONFIG}, "method": {"name": "full"}, "device": device, "reserved": "rule"}
    return parse_request(body | {"training": training | changes.pop("training", {})} | changes)


def phases(*args, **kwargs):
    return {phase.name: phase.peak_bytes for phase in estimate(request(*args, **kwargs)).memory.phases}


def sizes(**changes):
    given = {"ranks": 2, "prefetch_bucket": 0, "persistence_threshold": 0, "max_live": 10**9, "max_reuse_distance": 0}
    given |= {"reduce_bucket": 1000, "sub_group": 10**9, "offloads_parameters": False, "reduce_scatter": True}
    return Sizes(**given | {"offloads_optimizer": False} | changes)


def parameter(elements, **changes):
    return Partitioned(Key("weight", None), elements, "bfloat16", 2, **{"trained": True, "persists": False} | changes)


def passed(coordinator, modules):
    coordinator.begin()
    for module in modules:
        coordinator.fetch(module)
        coordinator.release(module)


def test_a_module_of_one_parameter_gathers_it_with_its_padding_and_several_are_copied_out():
    live = Live()
    one, two = Module(0, [parameter(1001)]), Module(1, [parameter(1000), parameter(200)])
    coordinator = Coordinator(sizes(), live, [*one.parameters, *two.parameters])
    coordinator.begin()
    coordinator.fetch(one)
    assert live.bytes == 2048
    coordinator.release(one)
    live.reset()
    coordinator.fetch(two)
    assert (live.most, live.bytes) == (2560 + 2048 + 512, 2048 + 512)


def test_a_parameter_that_is_used_again_within_the_reuse_distance_stays_gathered():
    for distance, kept in ((0, False), (300, False), (301, True)):
        live = Live()
        modules = [Module(0, [parameter(100)]), Module(1, [parameter(300)])]
        coordinator = Coordinator(sizes(max_reuse_distance=distance), live, [])
        order = [modules[0], modules[1], modules[0]]
        passed(coordinator, order)
        coordinator.begin()
        coordinator.fetch(modules[0])
        coordinator.release(modules[0])
        assert (modules[0].parameters[0].state == GATHERED) is kept


def test_a_prefetch_takes_modules_until_its_bucket_is_full():
    live = Live()
    modules = [Module(number, [parameter(100)]) for number in range(4)]
    coordinator = Coordinator(sizes(prefetch_bucket=150), live, [])
    passed(coordinator, modules)
    assert not live.bytes
    coordinator.begin()
    coordinator.fetch(modules[0])
    assert live.bytes == 512 + 512  # one buffer of two parameters, which are copied out once waited for
    coordinator.fetch(modules[1])
    assert modules[2].parameters[0].state == GATHERED


def test_gradients_are_reduced_when_the_next_does_not_fit_and_large_ones_stay_outside():
    live = Live()
    bucket = Bucket(sizes(), live, "bfloat16")
    bucket.add(parameter(901))
    assert not live.bytes
    assert bucket.is_full(parameter(100))
    bucket.reduce()
    assert (live.most, live.bytes) == (2048 + 512, 0)  # both parts, and the padding of the second
    bucket.add(parameter(3000))
    assert live.bytes == 6144


def test_every_phase_needs_less_on_more_gpus():
    two, eight = phases(NONE_STAY, count=2), phases(NONE_STAY, count=8)
    assert eight["optimizer_step"] < two["optimizer_step"]
    assert all(eight[phase] < two[phase] for phase in two)


def test_a_threshold_a_distance_and_a_prefetch_keep_more_gathered():
    least = phases(NONE_STAY)
    for name, value in (
        ("stage3_param_persistence_threshold", 10**6),
        ("stage3_max_reuse_distance", 10**9),
        ("stage3_prefetch_bucket_size", 10**7),
    ):
        assert phases({**NONE_STAY, name: value})["forward"] > least["forward"]


def test_a_trainers_step_has_a_sub_group_of_weights_with_decay_and_one_of_those_without():
    resident = training_step(request(training={"trainer": "transformers"})).resident
    assert [len(group) for group in resident.partitioned.sub_groups] == [2 + 4 * 7, 4 * 2 + 1]


def test_smaller_sub_groups_need_less_in_the_optimizer_step():
    assert phases({"sub_group_size": 10_000})["optimizer_step"] < phases()["optimizer_step"]


def test_communication_counts_each_gather_and_each_micro_batch():
    one, two, eight = (
        estimate(request(NONE_STAY, training={"gradient_accumulation_steps": steps})).communication
        for steps in (1, 2, 8)
    )
    assert [collective.name for collective in one] == ["all_gather", "reduce_scatter"]
    assert [2 * collective.payload_bytes for collective in one] == [collective.payload_bytes for collective in two]
    assert [8 * collective.payload_bytes for collective in one] == [collective.payload_bytes for collective in eight]


def test_every_span_of_the_timeline_is_at_most_its_phase():
    memory = estimate(request(NONE_STAY)).memory
    for phase in memory.phases:
        spans = [moment.bytes for moment in memory.timeline if moment.phase == phase.name]
        assert max(spans) == phase.peak_bytes


def test_rows_add_up_to_the_peak_and_name_what_is_gathered():
    memory = estimate(request({"sub_group_size": 10_000})).memory
    assert sum(component.bytes for component in memory.components) == memory.peak_allocated_bytes


ON_HOST = {"device": "cpu", "pin_memory": False}


def test_offload_moves_states_and_weights_to_the_host():
    on_gpu, states, both = (
        estimate(request({**NONE_STAY, **offload})).memory
        for offload in ({}, {"offload_optimizer": ON_HOST}, {"offload_optimizer": ON_HOST, "offload_param": ON_HOST})
    )
    assert on_gpu.host_bytes is None
    peaks = [{phase.name: phase.peak_bytes for phase in memory.phases} for memory in (on_gpu, states, both)]
    assert all(peaks[0][name] > peaks[1][name] > peaks[2][name] for name in peaks[0])
    partition = states.host_bytes // (4 + 4 + 8 + 2 + 2)  # masters, gradients, states, gradients, the copy for the GPU
    assert states.host_bytes == partition * 20
    assert both.host_bytes == partition * 18 + (1 << (2 * partition).bit_length())  # weights are pinned in any case
    assert both.node_host_bytes == 4 * both.host_bytes


def test_pinned_blocks_are_powers_of_two_that_are_used_again():
    pinned = PinnedMemory()
    pinned.allocate(1000)
    pinned.free(1000)
    pinned.allocate(600)
    assert pinned.bytes == 1024
    pinned.allocate(1025)
    assert pinned.bytes == 1024 + 2048


def test_an_offloaded_gradient_has_a_copy_and_its_norm_on_the_gpu():
    live = Live()
    bucket = Bucket(sizes(offloads_optimizer=True), live, "bfloat16")
    bucket.add(parameter(800))
    bucket.reduce()
    assert (live.most, live.bytes) == (1024 + 4096, 512)  # a partition of 400, then in float64 with the norm
    bucket.is_last = False
    bucket.add(parameter(800))
    live.reset()
    bucket.reduce()
    assert (live.most, live.bytes) == (512 + 1024, 512)


def test_the_graph_of_the_loss_keeps_gathered_4_bit_weights():
    method = {"name": "qlora", "target_modules": "all-linear"}
    runs = [estimate(request(NONE_STAY, training={"trainer": name}, method=method)) for name in (None, "transformers")]
    loop, trainer = ({phase.name: phase.peak_bytes for phase in run.memory.phases} for run in runs)
    packed = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512) // 2
    first = (256 * 256 + 2 * 256 * 128) // 2  # the inputs of the first layer's products have no graph
    assert loop["forward"] - trainer["forward"] == pytest.approx(packed - first, abs=100 * 512)
    assert loop["optimizer_step"] == pytest.approx(trainer["optimizer_step"], abs=100 * 512)  # inside backward there
    assert any("does not save the memory of 4-bit weights" in warning for warning in runs[0].warnings)


@pytest.mark.parametrize("method", [{"name": "full"}, {"name": "lora", "target_modules": "all-linear"}])
def test_the_head_that_trl_reads_stays_gathered_while_the_layers_run(method):
    def least(trainer):
        step = training_step(request(NONE_STAY, training={"trainer": trainer}, method=method))
        tracks = [pass_ for pass_ in step.partitioned.gathering.passes[-1] if pass_.segment.copy is not None]
        return min(moment.after for track in tracks for moment in track.moments)

    assert least("trl-sft") - least("transformers") == 2 * 256 * 1000


@pytest.mark.parametrize(
    ("loc", "changes"),
    [
        ("model", {"model": "state-spaces/mamba-130m-hf"}),
        (
            "method.lora_dropout",
            {"model": "openai-community/gpt2", "method": {"name": "lora", "use_dora": True, "lora_dropout": 0.1}},
        ),
        ("method.modules_to_save", {"method": {"name": "lora", "modules_to_save": ["mlp"]}}),
        (
            "method.modules_to_save",
            {
                "method": {"name": "lora", "modules_to_save": ["lm_head"]},
                "training": {"deepspeed": {"zero3_init_flag": True}},
            },
        ),
        (
            "training.deepspeed.zero3_init_flag",
            {"method": {"name": "ln_tuning"}, "training": {"deepspeed": {"zero3_init_flag": True}}},
        ),
        (
            "training.deepspeed.zero3_init_flag",
            {"method": {"name": "loha"}, "training": {"deepspeed": {"zero3_init_flag": True}}},
        ),
        (
            "training.deepspeed.zero3_init_flag",
            {
                "method": {"name": "prompt"},
                "training": {"trainer": "trl-reward", "deepspeed": {"zero3_init_flag": True}},
            },
        ),
        ("method.target_modules", {"model": "Qwen/Qwen2.5-0.5B", "method": {"name": "deft"}}),
        (
            "training.gradient_checkpointing_kwargs.use_reentrant",
            {
                "method": {"name": "lora"},
                "training": {
                    "trainer": "trl-sft",
                    "gradient_checkpointing": True,
                    "gradient_checkpointing_kwargs": {"use_reentrant": False},
                },
            },
        ),
        ("stack", {"stack": {"transformers": "5.0"}}),
        ("training.autocast", {"training": {"autocast": None}}),
    ],
    ids=str,
)
def test_settings_that_are_not_modeled_are_refused_by_their_field(loc, changes):
    with pytest.raises(PlanError) as caught:
        estimate(request(**changes))
    assert [problem.loc for problem in caught.value.problems] == [loc]


@pytest.mark.parametrize(
    ("method", "adapter_dtype", "named"),
    [
        ("lora", "float32", True),
        ("lora", "model", False),
        ("adapter", "float32", True),
        ("full", "float32", False),
        ("qlora", "float32", False),
    ],
)
def test_adapters_stay_in_float32_under_zero_init(method, adapter_dtype, named):
    def answer(**flag):
        deepspeed = {"zero_optimization": {"reduce_bucket_size": "auto"}, **flag}
        training = {"adapter_dtype": adapter_dtype, "deepspeed": deepspeed}
        return estimate(request(method={"name": method}, training=training))

    found, cast = answer(zero3_init_flag=True), answer(zero3_init_flag=False)
    assert any("casts no adapters" in line for line in found.assumptions) is named
    assert not any("casts no adapters" in line for line in (*cast.assumptions, *cast.warnings))
    by_default = answer()
    assert by_default.memory == cast.memory
    assert any("zero3_init_flag true" in line for line in by_default.warnings) is named
    assert (found.memory.peak_allocated_bytes > cast.memory.peak_allocated_bytes) is named


def test_biases_are_not_trained_with_adapters_in_float32():
    method = {"name": "lora", "bias": "lora_only"}
    model = {"config": {**CONFIG, "model_type": "qwen2"}}
    with pytest.raises(PlanError) as caught:
        estimate(request(model=model, method=method, training={"deepspeed": {"zero3_init_flag": True}}))
    assert [problem.loc for problem in caught.value.problems] == ["method.bias"]
    assert estimate(request(model=model, method=method))
