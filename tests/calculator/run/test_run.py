"""The phases of a run, the one that ends it, and what is refused."""

import pytest

from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.inputs.run import RunSettings
from calculator.run.request import parse_run
from calculator.run.run import whole_run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 3000,
    "tie_word_embeddings": False,
}

FSDP = {"count": 2, "sharding": "fsdp"}
ZERO3 = {"count": 2, "sharding": "zero3"}
GENERATES = {"predict_with_generate": True, "compute_metrics": True}
SHARDED = {"state_dict_type": "SHARDED_STATE_DICT"}


def request(run=None, method=None, training=None, device=None, **more):
    return parse_run(
        {
            "model": {"config": LLAMA},
            "method": method or {"name": "lora"},
            "training": {"sequence_length": 32, **(training or {})},
            "device": device or {},
            "reserved": "rule",
            "run": run or {},
            **more,
        }
    )


def answer(**parts):
    return whole_run(request(**parts))


def phase(found, name):
    return next(phase for phase in found.phases if phase.name == name)


def test_a_run_has_its_phases_in_order():
    run = {
        "eval_strategy": "steps",
        **GENERATES,
        "generation_max_length": 40,
        "merge_and_unload": True,
    }
    names = [phase.name for phase in answer(run=run).phases]
    assert names == ["load", "first_step", "training_step", "evaluation", "generation", "checkpoint", "merge"]
    assert [phase.name for phase in answer(run={"save_strategy": "no"}).phases] == names[:3]


def test_a_run_without_a_trainer_is_that_of_transformers():
    assert request().estimate.training.trainer == "transformers"
    assert request(training={"trainer": "trl-sft"}).estimate.training.trainer == "trl-sft"


def test_the_first_step_has_no_optimizer_states_in_its_forward_and_backward_pass():
    found = answer(method={"name": "full"})
    first, later = phase(found, "first_step"), phase(found, "training_step")
    assert first.gpu_bytes < later.gpu_bytes or later.operation.startswith("adamw")
    assert first.gpu_bytes <= later.gpu_bytes


def test_the_verdict_names_the_phase_that_ends_the_run():
    run = {"eval_strategy": "epoch", "compute_metrics": True, "eval_samples": 20_000}
    found = answer(run=run, device={"memory_bytes": 2 << 30})
    assert (found.verdict, found.ended_in.name, found.ended_in.ends_by) == (
        Verdict.DOES_NOT_FIT,
        "evaluation",
        "gpu",
    )
    flushed = answer(run={**run, "eval_accumulation_steps": 1}, device={"memory_bytes": 2 << 30})
    assert flushed.verdict is Verdict.FITS
    assert phase(flushed, "evaluation").host_bytes > phase(found, "evaluation").host_bytes > 0


@pytest.mark.parametrize(
    ("limit", "ended"),
    [({"host_memory_bytes": 1}, ("checkpoint", "host")), ({"disk_bytes": 1}, ("checkpoint", "disk"))],
)
def test_host_memory_and_disk_space_end_a_run_too(limit, ended):
    found = answer(run=limit)
    assert (found.ended_in.name, found.ended_in.ends_by) == ended


def test_logits_that_are_not_gathered_take_no_host_memory():
    without = {"eval_strategy": "epoch", "compute_metrics": True, "prediction_loss_only": True}
    assert phase(answer(run=without), "evaluation").host_bytes == 0


def test_files_that_are_mapped_do_not_count_against_the_host_memory():
    load = phase(answer(), "load")
    assert (load.host_bytes, load.needed_host_bytes) == (load.host_file_bytes, 0)
    cast = phase(answer(run={"checkpoint_dtype": "float32"}), "load")
    assert cast.needed_host_bytes == load.host_file_bytes
    assert cast.host_file_bytes == 2 * load.host_file_bytes


def test_a_model_in_4_bits_is_read_onto_the_gpu():
    loads = phase(answer(method={"name": "qlora"}, run={"checkpoint_dtype": "bfloat16"}), "load")
    assert loads.operation != "model.to(device)"
    assert sum(row.bytes for row in loads.rows) == loads.gpu_bytes


@pytest.mark.parametrize(
    ("run", "written", "at_once"),
    [
        ({"max_steps": 1000, "save_steps": 400}, 3, 3),
        ({"max_steps": 1000, "save_steps": 100, "save_total_limit": 2}, 10, 3),
        ({"max_steps": 1000, "save_steps": 100, "save_total_limit": 1, "load_best_model_at_end": True}, 10, 3),
        ({"save_strategy": "epoch", "num_train_epochs": 2, "save_total_limit": 5}, 2, 2),
        ({"save_strategy": "no"}, 0, 0),
    ],
)
def test_checkpoints_on_the_disk_are_those_that_are_kept_and_a_new_one(run, written, at_once):
    settings = RunSettings(**run)
    assert (settings.checkpoints, settings.checkpoints_on_disk) == (written, at_once)


def test_a_checkpoint_of_the_model_only_has_no_optimizer():
    names = [file.name for file in answer(run={"save_only_model": True}).files]
    assert names == ["adapter_model.safetensors"]


def test_processes_of_a_node_share_mapped_files_and_each_has_its_own_arrays():
    run = {"checkpoint_dtype": "float32", "eval_strategy": "steps", "compute_metrics": True, "eval_samples": 64}
    one, four = (
        answer(run=run, device={"count": count, **({"sharding": "ddp"} if count > 1 else {})}) for count in (1, 4)
    )
    load, loads = phase(one, "load"), phase(four, "load")
    assert loads.host_file_bytes == load.host_file_bytes > 0
    assert loads.needed_host_bytes == 4 * load.needed_host_bytes > 0
    assert phase(four, "evaluation").host_bytes == 4 * phase(one, "evaluation").host_bytes
    assert four.files == one.files
    assert any("4 times those of its own rows" in warning for warning in four.warnings)


def test_a_full_state_dict_is_gathered_on_the_first_process_and_shards_are_not():
    full, sharded = (
        phase(answer(device=FSDP, method={"name": "full"}, training={"autocast": "bfloat16"}, run=run), "checkpoint")
        for run in ({"save_only_model": False}, SHARDED)
    )
    parameters = 2 * 3000 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 160 + 2 * 64) + 64
    assert full.host_bytes == 2 * 4 * parameters  # two float32 states of each parameter
    assert sharded.host_bytes == 2 * 1500 * 64 * 4
    assert (full.gpu_bytes - full.resident_bytes, sharded.gpu_bytes) == (3000 * 64 * 4, sharded.resident_bytes)


@pytest.mark.parametrize(
    ("sharding", "stored", "cast"), [("fsdp", "bfloat16", 4), ("zero2", "bfloat16", 0), ("zero2", "float32", 2)]
)
def test_processes_hold_the_weights_that_are_cast_for_a_sharding(sharding, stored, cast):
    found = answer(
        device={"count": 2, "sharding": sharding},
        method={"name": "full"},
        training={"autocast": "bfloat16", "dtype": stored},
        run={"checkpoint_dtype": stored},
    )
    load = phase(found, "load")
    parameters = load.host_file_bytes // (4 if stored == "float32" else 2)
    assert load.needed_host_bytes == 2 * cast * parameters


def test_every_process_of_deepspeed_clones_the_weights_and_the_partitions_share_the_states():
    zero = {"count": 4, "sharding": "zero2"}
    found = answer(device=zero, method={"name": "full"}, training={"autocast": "bfloat16"})
    weights, _, partitions = found.files
    assert phase(found, "checkpoint").host_bytes > 4 * 0.99 * weights.bytes
    assert partitions.bytes == pytest.approx(6 * weights.bytes, rel=0.01)
    first, later = phase(found, "first_step"), phase(found, "training_step")
    assert first.gpu_bytes <= later.gpu_bytes


def test_a_classifiers_head_is_new_and_not_in_the_files_that_are_loaded():
    language_model, classifier = (
        phase(answer(**task), "load") for task in ({}, {"task": "seq_cls", "num_labels": 7, "method": {"name": "full"}})
    )
    assert classifier.host_file_bytes == language_model.host_file_bytes - 3000 * 64 * 2
    assert classifier.needed_host_bytes == 7 * 64 * 2


def test_labels_of_tokens_are_gathered_next_to_their_scores():
    run = {"eval_strategy": "steps", "compute_metrics": True, "eval_samples": 20_000}
    found = answer(task="token_cls", num_labels=2, run=run)
    evaluation = phase(found, "evaluation")
    names = {row.name for row in evaluation.rows}
    assert {"gathered labels", "gathered labels with the batch"} <= names
    assert evaluation.host_bytes == 20_000 * 32 * (2 * 4 + 8)


@pytest.mark.parametrize("trainer", ["trl-grpo", "trl-rloo"])
def test_an_evaluation_generates_completions_and_scores_them(trainer):
    training = {"trainer": trainer, "micro_batch_size": 2, "max_completion_length": 8, "num_generations": 2}
    found = answer(training=training, run={"eval_strategy": "steps"})
    assert not found.unanswered
    assert "losses of the batch before" in {row.name for row in phase(found, "evaluation").rows}
    with pytest.raises(PlanError, match="cannot be divided into groups of 2 completions"):
        answer(training=training, run={"eval_strategy": "steps", "per_device_eval_batch_size": 3})


def test_vllm_on_the_same_gpu_leaves_less_to_an_evaluation():
    training = {"trainer": "trl-grpo", "micro_batch_size": 2, "use_vllm": True, "num_generations": 2}
    on_gpu = {"run": {"eval_strategy": "steps"}, "device": {"memory_bytes": 8 << 30}}
    alone, shared = (
        phase(answer(training=training | {"vllm_mode": mode}, **on_gpu), "evaluation").fit
        for mode in ("server", "colocate")
    )
    assert shared.usable_bytes < alone.usable_bytes


def test_a_run_under_zero_3_has_its_steps_and_the_partitions_of_its_checkpoint():
    training = {"autocast": "bfloat16"}
    found = answer(device=ZERO3, method={"name": "full"}, training=training, run={"eval_strategy": "steps"})
    assert [phase.name for phase in found.phases] == ["load", "first_step", "training_step", "evaluation", "checkpoint"]
    assert not found.unanswered
    whole = answer(
        device=ZERO3, method={"name": "full"}, training={**training, "deepspeed": {"zero3_init_flag": False}}
    )
    # Under deepspeed.zero.Init, one process alone reads the files.
    loads, load = phase(found, "load"), phase(whole, "load")
    assert loads.host_bytes == loads.host_file_bytes == load.host_file_bytes
    parameters = 2 * 3000 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 160 + 2 * 64) + 64
    (states,) = found.files
    assert states.bytes == 3 * 4 * parameters + 2 * 2 * 4
    checkpoint = phase(found, "checkpoint")
    assert checkpoint.gpu_bytes == checkpoint.resident_bytes
    gathering = {"zero_optimization": {"stage3_gather_16bit_weights_on_model_save": True}}
    gathered = answer(device=ZERO3, method={"name": "full"}, training={**training, "deepspeed": gathering})
    assert gathered.files[0].name == "model.safetensors"
    assert phase(gathered, "checkpoint").host_bytes == 2 * parameters


def test_sft_trainer_computes_the_logits_for_compute_metrics_in_a_second_pass():
    run = {"eval_strategy": "steps", "eval_samples": 4}
    without, gathered = (
        answer(training={"trainer": "trl-sft"}, run=run | {"compute_metrics": computes}) for computes in (False, True)
    )
    assert [any("second forward pass" in warning for warning in found.warnings) for found in (without, gathered)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("parts", "loc"),
    [
        (
            {
                "device": ZERO3,
                "method": {"name": "full"},
                "training": {"autocast": "bfloat16"},
                "run": {"save_only_model": True},
            },
            "run.save_only_model",
        ),
        ({"device": FSDP, "run": {"merge_and_unload": True}}, "run.merge_and_unload"),
        ({"device": FSDP, "run": {"save_only_model": True, **SHARDED}}, "run.save_only_model"),
        ({"device": FSDP, "method": {"name": "ia3"}}, "method.name"),
        ({"device": FSDP, "method": {"name": "lora", "bias": "all"}}, "method.name"),
        (
            {
                "device": {"count": 2, "sharding": "zero2"},
                "training": {"autocast": "bfloat16", "optimizer": "adamw_8bit"},
            },
            "training.optimizer",
        ),
        ({"run": SHARDED}, "run.state_dict_type"),
        ({"run": SHARDED, "device": {"count": 2, "sharding": "ddp"}}, "run.state_dict_type"),
        (
            {
                "task": "seq_cls",
                "run": {"eval_strategy": "steps", **GENERATES, "generation_max_length": 64},
            },
            "run.predict_with_generate",
        ),
        ({"accounting": "textbook"}, "accounting"),
        ({"stack": {"transformers": "5.0"}}, "stack.transformers"),
        ({"run": {"load_best_model_at_end": True}}, "run.load_best_model_at_end"),
        ({"run": {"predict_with_generate": True}}, "run.predict_with_generate"),
        (
            {"run": {"eval_strategy": "steps", "predict_with_generate": True, "generation_max_length": 64}},
            "run.predict_with_generate",
        ),
        ({"run": {"eval_strategy": "steps", **GENERATES}}, "run.generation_max_length"),
        (
            {
                "run": {"eval_strategy": "steps", **GENERATES, "generation_max_length": 4096},
                "training": {"autocast": "bfloat16", "fsdp_config": {"cpu_offload": True}},
                "device": {"count": 2, "sharding": "fsdp"},
            },
            "training.fsdp_config.cpu_offload",
        ),
        ({"run": {"eval_strategy": "steps"}, "training": {"trainer": "trl-sft", "packing": True}}, "run.eval_strategy"),
        (
            {"run": {"eval_strategy": "steps"}, "training": {"trainer": "trl-sft"}, "stack": {"trl": "1.9"}},
            "stack.trl",
        ),
        (
            {"run": {"eval_strategy": "steps", "compute_metrics": True}, "training": {"trainer": "trl-dpo"}},
            "run.compute_metrics",
        ),
        (
            {
                "run": {"eval_strategy": "steps", **GENERATES, "generation_max_length": 4096},
                "training": {"trainer": "trl-sft"},
            },
            "run.predict_with_generate",
        ),
        (
            {
                "run": {"eval_strategy": "steps", "save_only_model": True},
                "method": {"name": "prompt"},
                "device": {"count": 2, "sharding": "zero3"},
                "training": {"autocast": "bfloat16"},
            },
            "method.name",
        ),
        (
            {"run": {"eval_strategy": "steps", "compute_metrics": True}, "training": {"use_liger_kernel": True}},
            "training.use_liger_kernel",
        ),
        (
            {"run": {"eval_strategy": "steps", **GENERATES, "generation_max_length": 32}},
            "run.generation_max_length",
        ),
        ({"method": {"name": "delora"}}, "method.name"),
        ({"method": {"name": "qlora"}, "run": {"merge_and_unload": True}}, "run.merge_and_unload"),
        ({"method": {"name": "prefix"}, "run": {"merge_and_unload": True}}, "run.merge_and_unload"),
        ({"run": {"evaluate": "steps"}}, "run.evaluate"),
        (
            {
                "model": "Qwen/Qwen3-30B-A3B",
                "training": {"trainer": "trl-sft"},
                "run": {"eval_strategy": "steps", "compute_metrics": True},
            },
            "run.compute_metrics",
        ),
    ],
    ids=str,
)
def test_settings_that_are_not_modeled_are_refused_at_their_field(parts, loc):
    with pytest.raises(PlanError) as refused:
        answer(**parts)
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_a_run_under_fsdp_states_which_processes_read_the_weights():
    found = answer(device={"count": 2, "sharding": "fsdp"}, training={"autocast": "bfloat16"})
    assert any("cpu_ram_efficient_loading" in assumption for assumption in found.assumptions)


def test_experts_are_fused_in_host_memory_if_the_files_have_each_of_them():
    config = {
        "model_type": "mixtral",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 200,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    body = {"model": {"config": config}, "method": {"name": "lora", "target_modules": ["q_proj"]}}
    load = whole_run(parse_run({**body, "training": {"sequence_length": 8}, "reserved": "rule"})).phases[0]
    assert load.host_bytes - load.host_file_bytes == 2 * 4 * 3 * 64 * 96 * 2
    experts = 2 * 4 * 3 * 64 * 96
    casts = {**body, "training": {"dtype": "float32", "sequence_length": 8}, "run": {"checkpoint_dtype": "bfloat16"}}
    cast = whole_run(parse_run(casts))
    assert cast.phases[0].needed_host_bytes == 2 * cast.phases[0].host_file_bytes + 4 * (4 * 2 * 64 * 96)
    assert cast.phases[0].host_high_bytes - cast.phases[0].host_bytes == 4 * experts
    assert any(f"{4 * experts:,} bytes more" in warning for warning in cast.warnings)
    limits = [cast.phases[0].needed_host_bytes + room for room in (-1, 0, 4 * experts)]
    ends = [whole_run(parse_run({**casts, "run": {**casts["run"], "host_memory_bytes": limit}})) for limit in limits]
    found = [(run.verdict, run.phases[0].ends_by, run.phases[0].may_end_by) for run in ends]
    assert found == [("does_not_fit", "host", None), ("tight", None, "host"), (None, None, None)]
    on_gpu = whole_run(parse_run({**body, "training": {"sequence_length": 8}, "run": {"device_map": "auto"}})).phases[0]
    fused = [row for row in on_gpu.rows if row.name == "weights of experts before they are fused"]
    assert [row.bytes for row in fused] == [2 * (4 * 2 * 64 * 96)]


def test_a_merge_that_is_not_modeled_is_refused_with_the_settings_as_the_reason():
    method = {"name": "lora", "target_modules": ["q_proj"], "use_dora": True}
    body = {"model": "meta-llama/Llama-3.2-1B", "method": method}
    with pytest.raises(PlanError, match="that merging LoRA with these settings takes is not modeled: use false"):
        whole_run(parse_run({**body, "run": {"merge_and_unload": True}}))
