"""Plans as a practitioner would make them: six scenarios, and properties of every plan. Most are by the rule."""

import re

import pytest

from calculator.common.errors import PlanError
from calculator.devices import Verdict, gpu
from calculator.estimation.estimate import estimate
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.methods import USUAL_METHODS
from calculator.planning.plan import plan
from calculator.planning.proposals import MOST_CONFIGURATIONS
from calculator.planning.reasons.rules import RULES
from calculator.planning.request import parse_plan
from tests.calculator.planning.plans import planned

GIB = 1 << 30

#: Rules of quantized bases: see test_quantized_bases.py.
OF_BASES = {"base_in_float16", "unmergeable_base"}

#: Rules that only single changes to a plan follow; tests/calculator/planning/test_suggestions.py uses each.
OF_SUGGESTIONS = {
    "cut_cross_entropy",
    "double_quantisation",
    "flattened_batches",
    "fused_attention",
    "fused_head",
    "fused_optimizer",
    "half_precision",
    "liger_kernels",
    "loaded_in_half_precision",
    "loss_in_chunks",
    "packed_rows",
    "paged_states",
    "shorter_sequences",
    "step_in_backward",
}

SCENARIOS = {
    "7B on 24 GB": {"model": "mistralai/Mistral-7B-v0.1", "device": {"gpu": "rtx-4090"}},
    "70B on 80 GB, 20 tasks": {
        "model": "meta-llama/Llama-3.1-70B",
        "device": {"gpu": "a100-sxm4-80gb"},
        "needs": {"tasks": 20, "switch_per_request": True},
    },
    "13B on 16 GB, merged": {
        "model": "meta-llama/Llama-2-13b-hf",
        "device": {"gpu": "rtx-4080"},
        "needs": {"must_merge": True},
    },
    "3B on 8 GB": {"model": "meta-llama/Llama-3.2-3B", "device": {"gpu": "rtx-4060"}},
    "an immutable base": {
        "model": "meta-llama/Llama-3.1-8B",
        "device": {"gpu": "l40s"},
        "needs": {"frozen_base": True, "tasks": 5},
    },
    "nothing fits": {"model": "meta-llama/Llama-3.1-70B", "device": {"gpu": "rtx-4090"}},
}


@pytest.fixture(scope="module")
def plans():
    return {name: planned(body) for name, body in SCENARIOS.items()}


def methods(part):
    return [configuration.request.method.name for configuration in part.configurations]


def out(part):
    return {exclusion.method: exclusion.rule.name for exclusion in part.ruled_out}


def reasons(configuration, stance):
    return {reason.rule.name: reason.sentence for reason in configuration.reasons if reason.stance == stance}


def test_7b_on_24_gb_has_the_choice_of_everything_but_full_and_prefix(plans):
    """16-bit LoRA fits with checkpointing, so that it comes before QLoRA, which leaves more room; full does not."""
    part = plans["7B on 24 GB"]
    assert list(dict.fromkeys(methods(part))) == ["lora", "qlora", "adapter", "ln_tuning", "ia3", "prompt"]
    assert out(part) == {"full": "fits", "prefix": "fits"}
    best, training = part.configurations[0], part.configurations[0].request.training
    assert (best.request.method.r, best.request.method.target_modules) == (16, "all-linear")
    assert training.gradient_checkpointing
    assert (training.micro_batch_size, training.gradient_accumulation_steps) == (2, 8)
    qlora = next(c for c in part.configurations if c.request.method.name == "qlora")
    assert qlora.cost.relative > best.cost.relative
    assert qlora.estimate.memory.required_bytes < best.estimate.memory.required_bytes
    prompt = next(c for c in part.configurations if c.request.method.name == "prompt")
    assert "prompt_scale" in reasons(prompt, "against")


def test_70b_on_80_gb_serves_20_tasks_by_unmerged_qlora_modules(plans):
    """Only a 4-bit base fits; adapters, which the lesson names for switching, would need 140 GiB."""
    part = plans["70B on 80 GB, 20 tasks"]
    assert set(methods(part)) == {"qlora"}
    assert out(part) == {
        "full": "copy_per_task",
        **dict.fromkeys(("lora", "adapter", "prefix", "prompt", "ia3", "ln_tuning"), "fits"),
    }
    best = part.configurations[0]
    assert best.task_bytes == pytest.approx(4 * 207_093_760, rel=0.001)
    assert "20 of them 15.4 GiB" in reasons(best, "for")["one_base"]
    assert "mixed_batch" in reasons(best, "for")
    assert "quantised_copy" in reasons(best, "against")
    assert all("merges" not in reasons(c, "for") for c in part.configurations)
    small = next(c for c in part.configurations if c.request.method.target_modules != "all-linear")
    assert small.task_bytes < best.task_bytes / 3


def test_13b_on_16_gb_that_must_merge_is_qlora_merged_outside_the_gpu(plans):
    part = plans["13B on 16 GB, merged"]
    assert set(methods(part)) == {"qlora"}
    unmerged = dict.fromkeys(("adapter", "prefix", "prompt"), "stays_beside")
    assert out(part) == {**unmerged, "full": "fits", "lora": "fits", "ia3": "fits", "ln_tuning": "fits"}
    for configuration in part.configurations:
        assert "24.2 GiB" in reasons(configuration, "for")["merges"]
        assert "merge in CPU memory" in reasons(configuration, "against")["merging_rounds"]


def test_a_merged_model_that_the_gpu_cannot_serve_is_explained_with_the_memory_in_4_bits(plans):
    part = plans["13B on 16 GB, merged"]
    for configuration in part.configurations:
        body = {"model": part.model, "method": {"name": "qlora"}, "device": {"gpu": "rtx-4080"}}
        sentences = {"for": reasons(configuration, "for"), "against": reasons(configuration, "against")}
        for storage, stance, fits in (("dtype", "against", False), ("nf4", "for", True)):
            served = inference(parse_inference({**body, "serving": {"merged": True, "storage": storage}}))
            assert f"{served.memory.required_bytes / GIB:.1f} GiB" in sentences[stance]["served_merged"]
            assert (served.fit.verdict is Verdict.FITS) == fits


def test_a_merged_model_that_the_gpu_serves_needs_no_word():
    body = {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "l40s"}, "needs": {"must_merge": True}}
    rules = {reason.rule.name for configuration in planned(body).configurations for reason in configuration.reasons}
    assert "merges" in rules
    assert "served_merged" not in rules


def test_changes_that_save_memory_are_offered_only_if_little_remains(plans):
    (close,) = plans["3B on 8 GB"].configurations
    assert "reserved: replay" in reasons(close, "against")["little_room"]
    assert {"method.r", "training.sequence_length"} <= {name for way in close.roomier for name in way.changes}
    for way in close.roomier:
        assert way.estimate.fit.headroom_bytes == close.estimate.fit.headroom_bytes + way.saved_bytes
    roomy = plans["7B on 24 GB"].configurations[0]
    assert (roomy.roomier, "little_room" in reasons(roomy, "against")) == ((), False)


def test_a_warning_of_every_estimate_is_a_warning_of_the_plan():
    needs = {"sequence_length": 4224}
    part = planned({"model": "meta-llama/Llama-2-7b-hf", "device": {"gpu": "rtx-4090"}, "needs": needs})
    (warning,) = part.warnings
    assert "longer than the model's 4,096 positions" in warning
    for configuration in part.configurations:
        assert {*part.warnings, *part.warnings_of(configuration)} == set(configuration.estimate.warnings)


def test_a_miss_that_no_shorter_sequence_mends_states_why():
    part = planned({"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-2060"}})
    assert "with 64 tokens it still needs 6.2 GiB of 5.5 GiB" in part.miss.why_no_shorter_sequence
    assert not any("sequence_length" in change.sets for change in part.changes)
    assert (
        planned({"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-3070"}}).miss.why_no_shorter_sequence
        is None
    )


def test_3b_on_8_gb_uses_every_saving_and_states_how_little_is_left(plans):
    part = plans["3B on 8 GB"]
    (only,) = part.configurations
    training, method = only.request.training, only.request.method
    assert (method.name, method.r, method.prepare_model_for_kbit_training) == ("qlora", 16, False)
    assert training.optimizer == "paged_adamw_8bit"
    assert (training.micro_batch_size, training.gradient_checkpointing) == (1, True)
    assert {"little_room", "not_prepared", "recomputation"} <= set(reasons(only, "against"))
    assert {"states_8bit", "four_bits"} <= set(reasons(only, "for"))


def test_an_immutable_base_is_offered_every_method_that_leaves_it_unchanged(plans):
    part = plans["an immutable base"]
    assert out(part) == {"full": "immutable_base"}
    assert set(methods(part)) == set(USUAL_METHODS) - {"full"}
    for configuration in part.configurations:
        assert "immutable_base" in reasons(configuration, "for")
        assert "merges" not in reasons(configuration, "for")
        four_bits = configuration.request.method.name == "qlora"
        assert ("quantised_copy" in reasons(configuration, "against")) == four_bits
    assert not part.configurations[0].request.training.gradient_checkpointing


def test_a_plan_in_which_nothing_fits_has_a_nearest_miss_with_changes_that_fit(plans):
    """70B does not go onto 24 GB, whatever the lesson says; 48 GB hold it."""
    part = plans["nothing fits"]
    assert part.configurations == ()
    assert set(out(part)) == set(USUAL_METHODS)
    miss = part.miss
    assert miss.request.method.name == "qlora"
    assert miss.short_bytes == miss.estimate.memory.required_bytes - gpu("rtx-4090").usable_bytes > 20 * GIB
    assert miss.card.memory_gb == 48
    assert miss.card_fit.verdict is Verdict.FITS
    assert [change.sets for change in part.changes] == [{"model": "meta-llama/Llama-3.1-8B"}]


def test_a_near_miss_states_how_long_a_sequence_would_fit():
    body = {**SCENARIOS["3B on 8 GB"], "needs": {"sequence_length": 4096}}
    change = next(change for change in planned(body).changes if "sequence_length" in change.sets)
    length = change.sets["sequence_length"]
    assert 2048 < length < 4096
    assert planned({**body, "needs": {"sequence_length": length}}).configurations
    assert not planned({**body, "needs": {"sequence_length": length + 1}}).configurations


def test_each_need_that_prevents_a_fit_is_named():
    """A prompt is the only thing that trains so little, and it can't be merged."""
    needs = {"must_merge": True, "max_trainable_fraction": 0.00002}
    part = planned({"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-4090"}, "needs": needs})
    assert (part.configurations, part.miss) == ((), None)
    sentences = {tuple(change.sets): change.sentence for change in part.changes}
    assert sentences[("must_merge",)] == "Without must_merge, these fit: Prompt tuning."
    assert (
        sentences[("max_trainable_fraction",)]
        == "Without max_trainable_fraction, these fit: LoRA, QLoRA, IA³, LN Tuning."
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_estimate_is_that_of_its_request(plans, name):
    for configuration in plans[name].configurations:
        assert configuration.estimate == estimate(configuration.request)
        assert configuration.estimate.fit.verdict is Verdict.FITS
    if plans[name].miss:
        assert plans[name].miss.estimate == estimate(plans[name].miss.request)


@pytest.mark.parametrize("name", SCENARIOS)
def test_micro_batches_and_accumulation_make_up_the_batch(plans, name):
    for configuration in plans[name].configurations:
        training = configuration.request.training
        assert training.micro_batch_size * training.gradient_accumulation_steps == 16


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_reason_names_its_rule_and_has_numbers(plans, name):
    for configuration in plans[name].configurations:
        assert reasons(configuration, "for")
        assert reasons(configuration, "against")
        for reason in configuration.reasons:
            assert reason.rule is RULES[reason.rule.name]
            assert any(letter.isdigit() for letter in reason.sentence), reason


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_plan_is_short_needs_few_estimates_and_mentions_every_method(plans, name):
    part = plans[name]
    assert len(part.configurations) <= MOST_CONFIGURATIONS
    assert part.estimates <= 80
    assert set(methods(part)) | set(out(part)) == set(USUAL_METHODS)


def test_every_rule_is_used_somewhere():
    bodies = [
        *SCENARIOS.values(),
        {"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "a100-sxm4-80gb"}},
        {"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "rtx-4090"}, "needs": {"tasks": 3}},
        {"model": "meta-llama/Llama-2-13b-hf", "device": {"gpu": "a100-sxm4-80gb"}},
        {"model": "meta-llama/Llama-2-7b-hf", "device": {"gpu": "l4"}, "needs": {"max_trainable_fraction": 0.0001}},
        {"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "t4"}},
        {"model": "meta-llama/Llama-2-7b-hf", "device": {"gpu": "rtx-4090"}, "needs": {"sequence_length": 8}},
        {**SCENARIOS["70B on 80 GB, 20 tasks"], "needs": {"tasks": 60, "switch_per_request": True}},
        {"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "rtx-4090", "count": 2, "sharding": "ddp"}},
    ]
    used = set()
    for body in bodies:
        part = planned(body)
        used |= {reason.rule.name for configuration in part.configurations for reason in configuration.reasons}
        used |= set(out(part).values())
    assert used == set(RULES) - OF_SUGGESTIONS - OF_BASES


def test_priorities_decide_the_order():
    body = SCENARIOS["an immutable base"]

    def figures(priority):
        part = planned({**body, "needs": {**body["needs"], "priorities": [priority]}})
        return [
            (round(c.cost.relative * 20), c.estimate.memory.required_bytes, c.request.method.name)
            for c in part.configurations
        ]

    assert [figure[1] for figure in figures("memory")] == sorted(figure[1] for figure in figures("memory"))
    assert [figure[0] for figure in figures("speed")] == sorted(figure[0] for figure in figures("speed"))
    assert figures("quality")[0][2] == "lora"
    assert figures("memory")[0][2] == "qlora"


def test_with_speed_first_the_fastest_ranks_first_however_little_is_left():
    body = {"model": "meta-llama/Llama-2-7b-hf", "device": {"gpu": "rtx-4090"}}
    part = planned({**body, "needs": {"priorities": ["speed", "memory"]}})
    costs = [round(configuration.cost.relative * 20) for configuration in part.configurations]
    assert costs == sorted(costs)
    fastest = part.configurations[0]
    assert fastest.cost.relative < 1.05
    assert "little_room" in reasons(fastest, "against")
    assert part.configurations[-1].request.training.gradient_checkpointing


def test_a_four_bit_base_is_not_proposed_if_it_saves_nothing():
    part = planned({"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "a100-sxm4-80gb"}})
    assert out(part) == {"qlora": "four_bits_in_vain"}
    sentence = next(exclusion.sentence for exclusion in part.ruled_out if exclusion.method == "qlora")
    qlora, lora = (float(figure) for figure in re.findall(r"([\d.]+) GiB", sentence))
    assert lora <= qlora


def test_a_tight_configuration_ranks_after_roomier_ones_of_the_same_quality():
    room = [
        configuration.estimate.fit.headroom_bytes for configuration in planned(SCENARIOS["7B on 24 GB"]).configurations
    ]
    tiers = [
        configuration.request.method.name in ("lora", "qlora")
        for configuration in planned(SCENARIOS["7B on 24 GB"]).configurations
    ]
    least = 0.05 * gpu("rtx-4090").usable_bytes
    close = [bytes_ < least for bytes_, tier in zip(room, tiers, strict=True) if tier]
    assert close == sorted(close)
    assert room[0] >= least


def test_a_four_bit_base_is_compared_at_the_same_micro_batch_if_a_larger_one_saves_nothing():
    """QLoRA of an 8B model with micro-batches of 2 would need more than LoRA with 1 does."""
    part = planned({"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-4090"}})
    lora, qlora = (next(c for c in part.configurations if c.request.method.name == name) for name in ("lora", "qlora"))
    assert lora.request.training.micro_batch_size == qlora.request.training.micro_batch_size == 1
    assert qlora.estimate.memory.required_bytes < lora.estimate.memory.required_bytes - 4 * GIB


def test_a_gpu_without_bfloat16_gets_a_float16_base_and_no_float16_weights_to_train():
    part = planned({"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "t4"}})
    dtypes = {c.request.method.name: c.request.training.dtype for c in part.configurations}
    assert dtypes["lora"] == "float16"
    assert dtypes.get("full", "float32") == "float32"


def test_a_shortlist_is_planned_model_by_model_and_device_by_device():
    body = {"models": ["gpt2", "meta-llama/Llama-3.2-1B"], "devices": [{"gpu": "t4"}, {"memory_bytes": 24 * GIB}]}
    parts = plan(parse_plan(body)).plans
    pairs = [(part.model, part.device.gpu) for part in parts]
    assert pairs == [
        ("openai-community/gpt2", "t4"),
        ("openai-community/gpt2", None),
        ("meta-llama/Llama-3.2-1B", "t4"),
        ("meta-llama/Llama-3.2-1B", None),
    ]
    assert all(part.configurations for part in parts)


def test_a_length_that_was_not_named_is_cut_to_the_models_positions():
    part = planned({"model": "gpt2", "device": {"gpu": "t4"}})
    assert {c.request.training.sequence_length for c in part.configurations} <= {1024, 1004}


@pytest.mark.parametrize(
    ("body", "locs"),
    [
        ({"models": ["gpt2", "no-such-model"], "device": {"gpu": "t4"}}, {"models.1"}),
        ({"model": "gpt2", "device": {"gpu": "t4"}, "needs": {"sequence_length": 4096}}, {"needs.sequence_length"}),
        ({"model": "google-bert/bert-base-uncased", "device": {"gpu": "t4"}}, {"model"}),
        (
            {"model": "gpt2", "device": {"gpu": "t4", "count": 64, "sharding": "zero1"}, "reserved": "rule"},
            {"needs.effective_batch_size"},
        ),
        (
            {
                "models": ["gpt2", "google-bert/bert-base-uncased"],
                "device": {"gpu": "t4"},
                "needs": {"frozen_base": True, "max_trainable_fraction": 0.01},
            },
            {"models.1"},
        ),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_made_is_refused_at_its_field(body, locs):
    with pytest.raises(PlanError) as refused:
        plan(parse_plan(body))
    assert {problem.loc for problem in refused.value.problems} == locs


def test_every_rule_has_a_sentence_and_a_source():
    assert list(RULES) == [rule.name for rule in RULES.values()]
    assert all(rule.statement.endswith(".") and rule.source for rule in RULES.values())
