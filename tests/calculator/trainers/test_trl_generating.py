"""TRL's GRPOTrainer and RLOOTrainer. tests/cases/trainers.jsonl has traced steps."""

import pytest

from calculator.allocator.reserved_rule import between_steps, generation_bytes
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, resident_state, training_step
from calculator.estimation.request import parse_request
from calculator.limit_search.limits import limit, parse_limit
from calculator.resident.per_parameter import tensors
from calculator.trainers import TRAINERS
from calculator.training_step.unrolled import events

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
FULL = {"name": "full"}
MODEL = "meta-llama/Llama-3.2-1B"


def request(method=LORA, **training):
    training = {"sequence_length": 256, "micro_batch_size": 2, "trainer": "trl-grpo", "dtype": "bfloat16", **training}
    return parse_request({"model": MODEL, "method": method, "training": training, "reserved": "rule"})


def passes(run):
    names = [row[0] for row in run.tape.rows]
    return [name.rpartition("model.embed_tokens")[0] for name in names if name.endswith("model.embed_tokens: output")]


def kept(**changes):
    tensors_ = tensors(training_step(request(**changes)).resident.optimizer_states)
    return {tensor.name: tuple(map(int, tensor.shape)) for tensor in tensors_ if tensor.component == "activations"}


def bytes_of(step, prefix):
    return sum(tensor.bytes for tensor in step.resident.tensors if tensor.name.startswith(prefix))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [""]),
        ({"beta": 0.04}, ["reference: ", ""]),
        ({"trainer": "trl-rloo"}, ["old: ", "reference: ", ""]),
        ({"trainer": "trl-rloo", "beta": 0}, ["old: ", ""]),
    ],
)
def test_completions_are_scored_before_the_model_runs(changes, expected):
    assert passes(training_step(request(**changes), whole=True).run) == expected


def test_only_the_first_micro_batch_of_a_step_scores():
    step = training_step(request(beta=0.04, gradient_accumulation_steps=2), whole=True)
    assert passes(step.run) == [""]
    assert passes(step.first.run) == ["reference: ", ""]
    assert training_step(request(beta=0.04)).first is None


def test_a_replay_scores_only_in_the_first_micro_batch():
    prepared = training_step(request(beta=0.04, gradient_accumulation_steps=2)).resident.prepared
    names = {row[0] for row in events(prepared.first_micro_batch).rows}
    assert any(name.startswith("reference: model.layers") for name in names)
    assert not any(name.startswith("reference: ") for name in {row[0] for row in events(prepared).rows})


def test_the_generation_batch_of_a_step_stays_in_memory():
    batch = kept(gradient_accumulation_steps=3, max_completion_length=100)
    assert batch["prompt_ids"] == (6, 156)
    assert batch["completion_mask"] == (6, 100)
    assert "ref_per_token_logps" not in batch
    assert kept(beta=0.1)["ref_per_token_logps"] == (2, 255)
    assert kept(trainer="trl-rloo")["old_logps"] == (2,)


def phases(**changes):
    return {phase.name: phase.peak_bytes for phase in estimate(request(**changes)).memory.phases}


def test_completions_of_all_micro_batches_are_generated_before_the_forward_pass():
    assert [*phases()] == ["generation", "forward", "backward", "optimizer_step"]
    assert [*phases(trainer="trl-kto")] == ["forward", "backward", "optimizer_step"]
    once, thrice = (phases(gradient_accumulation_steps=steps)["generation"] for steps in (1, 3))
    assert thrice > once


def test_generation_can_set_the_peak_and_has_moments_on_the_timeline():
    wanted = request(
        gradient_checkpointing=True, micro_batch_size=16, gradient_accumulation_steps=8, max_completion_length=200
    )
    memory = estimate(wanted).memory
    assert memory.peak_phase == "generation"
    assert sum(part.bytes for part in memory.components) == memory.phases[0].peak_bytes
    assert "kv_cache" in {part.name for part in memory.components}
    moments = [moment for moment in memory.timeline if moment.phase == "generation"]
    assert [moment.operation for moment in moments] == ["the prompts", "the second token", "the last token"]
    assert max(moment.bytes for moment in moments) == memory.peak_allocated_bytes
    assert memory.timeline[3].phase == "forward"


@pytest.mark.parametrize(("length", "passes"), [(1, 1), (2, 2), (3, 3), (100, 3)])
def test_each_token_after_the_first_is_a_separate_pass(length, passes):
    generation = training_step(request(max_completion_length=length)).generation
    assert sum(len(batch.with_smaller) for batch in generation) == passes


def test_a_verdict_by_replay_includes_generation():
    settings = {"trainer": "trl-grpo", "micro_batch_size": 16, "sequence_length": 256, "max_completion_length": 200}
    body = {
        "model": MODEL,
        "method": LORA,
        "training": {**settings, "gradient_accumulation_steps": 8, "gradient_checkpointing": True},
    }
    unlimited = estimate(parse_request(body)).memory
    step = max(phase.peak_bytes for phase in unlimited.phases[1:])
    assert unlimited.peak_allocated_bytes > step
    assert unlimited.peak_reserved_bytes >= unlimited.peak_allocated_bytes
    between = (unlimited.peak_allocated_bytes + unlimited.peak_reserved_bytes) // 2 + unlimited.required_bytes
    usable = between - unlimited.peak_reserved_bytes
    fit = estimate(parse_request({**body, "device": {"memory_bytes": usable}})).fit
    assert (fit.verdict, fit.minimum_bytes > step) == ("tight", True)
    fit = estimate(parse_request({**body, "device": {"memory_bytes": unlimited.peak_allocated_bytes}})).fit
    assert fit.verdict == "does_not_fit"


def fit_with(memory_bytes, reserved="rule", **training):
    settings = {"trainer": "trl-grpo", "micro_batch_size": 2, "sequence_length": 256, **training}
    body = {"model": MODEL, "method": LORA, "training": settings, "device": {"memory_bytes": memory_bytes}}
    return estimate(parse_request({**body, "reserved": reserved})).fit


def test_vllm_takes_its_share_of_the_gpu_and_no_phase():
    assert "generation" not in phases(use_vllm=True)
    assert fit_with(10 << 30, use_vllm=True).usable_bytes == (10 << 30) - -(-(10 << 30) * 3 // 10)
    assert fit_with(10 << 30, use_vllm=True, vllm_gpu_memory_utilization=0.5).usable_bytes == 5 << 30
    assert fit_with(10 << 30, use_vllm=True, vllm_mode="server").usable_bytes == 10 << 30


@pytest.mark.parametrize("reserved", ["rule", "replay"])
def test_vllm_that_sleeps_must_fit_together_with_what_the_trainer_keeps(reserved):
    sleeping = {"use_vllm": True, "vllm_enable_sleep_mode": True}
    fit = fit_with(10 << 30, reserved, **sleeping)
    assert (fit.verdict, fit.usable_bytes) == ("fits", 10 << 30)
    kept = fit.awake_bytes - -(-(10 << 30) * 3 // 10)
    assert 2 << 30 < kept < 4 << 30
    fit = fit_with(10 << 30, reserved, vllm_gpu_memory_utilization=0.9, **sleeping)
    assert fit.verdict == "does_not_fit"
    assert fit.headroom_bytes == fit.usable_bytes - fit.awake_bytes < 0


def test_grpo_corrects_the_probabilities_of_vllm_and_rloo_does_not():
    assert passes(training_step(request(use_vllm=True), whole=True).run) == ["old: ", ""]
    assert kept(use_vllm=True)["importance_sampling_ratio"] == (2, 1)
    assert kept(use_vllm=True)["sampling_per_token_logps"] == kept(use_vllm=True)["old_per_token_logps"] == (2, 255)
    assert kept(trainer="trl-rloo", use_vllm=True) == kept(trainer="trl-rloo")


def test_completions_that_reset_the_cache_of_phi3_are_refused():
    config = {"model_type": "phi3", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config |= {
        "num_attention_heads": 1,
        "vocab_size": 99,
        "pad_token_id": None,
        "original_max_position_embeddings": 128,
    }
    training = {"trainer": "trl-grpo", "micro_batch_size": 2, "max_completion_length": 32}
    body = {"model": {"config": config}, "method": FULL, "reserved": "rule"}
    for length, runs in ((129, True), (130, False), (159, False), (161, True)):
        wanted = parse_request({**body, "training": {**training, "sequence_length": length}})
        if runs:
            assert estimate(wanted).memory.phases
            continue
        with pytest.raises(PlanError, match="use at most 129"):
            estimate(wanted)


def test_full_fine_tuning_with_beta_keeps_a_second_model():
    assert not bytes_of(training_step(request(FULL)), "ref_model.")
    assert bytes_of(training_step(request(FULL, beta=0.04)), "ref_model.")


def test_scores_of_other_rows_are_alive_in_the_last_scoring_pass():
    rows = training_step(request(beta=0.04, gradient_accumulation_steps=4)).first.run.tape.rows
    assert sum(row[0] == "reference: log-probabilities of other rows" for row in rows) == 3
    many = training_step(request(beta=0.04, gradient_accumulation_steps=5000)).first.run.tape.rows
    (merged,) = [row for row in many if row[0] == "reference: log-probabilities of other rows"]
    assert tuple(map(int, merged[1])) == (2 * 4999, 255)


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"micro_batch_size": 1}, "training.micro_batch_size"),
        ({"num_generations": 3}, "training.num_generations"),
        ({"max_completion_length": 256}, "training.max_completion_length"),
        ({"max_completion_length": 100, "completion_tokens": 151}, "training.completion_tokens"),
        ({"max_completion_length": 100, "completion_tokens": 201, "padding": True}, "training.completion_tokens"),
        ({"loss_type": "sigmoid"}, "training.loss_type"),
        ({"precompute_ref_log_probs": True}, "training.precompute_ref_log_probs"),
        ({"trainer": "trl-rloo", "loss_type": "grpo"}, "training.loss_type"),
        ({"trainer": "trl-dpo", "beta": 0.1}, "training.beta"),
        ({"trainer": "trl-sft", "num_generations": 2}, "training.num_generations"),
        ({"trainer": "transformers", "max_completion_length": 9}, "training.max_completion_length"),
        ({"trainer": None, "beta": 0.1}, "training.beta"),
        ({"trainer": "trl-sft", "use_vllm": True}, "training.use_vllm"),
        ({"trainer": "transformers", "use_vllm": True}, "training.use_vllm"),
        ({"trainer": None, "vllm_enable_sleep_mode": True}, "training.vllm_enable_sleep_mode"),
        ({"vllm_gpu_memory_utilization": 0.2}, "training.vllm_gpu_memory_utilization"),
        (
            {"use_vllm": True, "vllm_mode": "server", "vllm_gpu_memory_utilization": 0.2},
            "training.vllm_gpu_memory_utilization",
        ),
        ({"loss_type": "vespo", "use_vllm": True}, "training.loss_type"),
    ],
)
def test_a_refusal_names_its_field(changes, loc):
    with pytest.raises(PlanError) as refused:
        estimate(request(**changes))
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_the_answer_says_what_the_reference_is_and_how_long_completions_are():
    said = " ".join(estimate(request(max_completion_length=100)).assumptions)
    assert "beta is 0: there is no reference." in said
    assert "has 100 tokens, the longest prompt the other 156" in said
    assert "with its adapters off" in " ".join(estimate(request(beta=0.1)).assumptions)


@pytest.mark.parametrize(("vllm", "why"), [(False, "completions of another model"), (True, "merges no virtual tokens")])
@pytest.mark.parametrize("trainer", ["trl-grpo", "trl-rloo"])
def test_virtual_tokens_are_refused(trainer, vllm, why):
    with pytest.raises(PlanError, match=f"method.name: .*{why}"):
        estimate(request(trainer=trainer, method={"name": "prompt"}, use_vllm=vllm))


def test_a_model_that_reads_images_too_is_refused_by_the_trainer():
    text = {"hidden_size": 128, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}
    config = {"model_type": "qwen2_5_vl", "text_config": {**text, "intermediate_size": 64, "vocab_size": 99}}
    body = {"model": {"config": config}, "method": {"name": "prompt"}, "training": {"trainer": "trl-reward"}}
    with pytest.raises(PlanError) as refused:
        estimate(parse_request(body))
    assert "training.trainer" in [problem.loc for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("trainer", "solve_for", "training", "least"),
    [
        ("trl-grpo", "sequence_length", {"max_completion_length": 128}, 129),
        ("trl-grpo", "micro_batch_size", {"gradient_accumulation_steps": 1}, 2),
        ("trl-rloo", "micro_batch_size", {"gradient_accumulation_steps": 2}, 1),
        ("trl-kto", "micro_batch_size", {}, 2),
    ],
)
def test_a_limit_is_searched_from_the_smallest_value_that_the_trainer_accepts(trainer, solve_for, training, least):
    wanted = request(trainer=trainer, **training)
    body = {"model": MODEL, "method": LORA, "device": {"memory_bytes": 6 << 30}, "reserved": "rule"}
    settings = {"trainer": trainer, "micro_batch_size": 2, "sequence_length": 256, **training}
    answer = limit(parse_limit({**body, "training": settings, "solve_for": solve_for}))
    assert TRAINERS[trainer].smallest_size(solve_for, wanted.training) == least
    assert answer.value is not None
    assert answer.value >= least


@pytest.mark.parametrize(("trainer", "copies"), [("trl-rloo", 1), ("trl-grpo", 0)])
def test_rloo_copies_the_adapters_of_a_model_that_is_passed_without_beta_too(trainer, copies):
    def adapters(beta):
        training = {"trainer": trainer, "micro_batch_size": 2, "beta": beta, "adapter_dtype": "model"}
        body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "training": training}
        tensors = resident_state(parse_request({**body, "reserved": "rule"})).tensors
        return sum(tensor.bytes for tensor in tensors if tensor.component == "adapter_weights")

    plain, with_copies = adapters(0.0), adapters(0.05)
    assert with_copies == 3 * plain if not copies else with_copies == plain


@pytest.mark.parametrize("sharding", ["zero1", "zero2"])
def test_tensors_that_zero_keeps_between_steps_are_reserved_while_the_trainer_generates(sharding):
    training = {"trainer": "trl-grpo", "micro_batch_size": 2, "sequence_length": 64, "autocast": "bfloat16"}
    body = {"model": MODEL, "method": {"name": "full"}, "training": training}
    step = training_step(parse_request({**body, "device": {"count": 2, "sharding": sharding}}))
    divided = sum(tensor.bytes for tensor in step.resident.flat.divided)
    assert between_steps(step.resident, ()) > divided
    assert generation_bytes(step, ()) > divided + max(batch.moment.bytes for batch in step.generation)
