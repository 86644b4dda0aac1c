"""The step of transformers' Trainer, compared with its real `train()` on PyTorch's meta device."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
    "tie_word_embeddings": False,
}
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
FULL = {"name": "full"}
RE_ENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}

#: Method, training and the peaks of the three phases, traced from transformers 5.24, accelerate 1.15 and peft 0.21.2.
TRACED = [
    (FULL, {}, (26_549_248, 27_070_976, 32_256_000)),
    (FULL, {"gradient_accumulation_steps": 2, "autocast": "bfloat16"}, (33_003_008, 33_524_736, 32_259_072)),
    (
        FULL,
        {"gradient_accumulation_steps": 3, "autocast": "bfloat16", "dtype": "float32"},
        (65_395_200, 65_785_856, 64_512_000),
    ),
    (FULL, {"padding": True}, (26_791_936, 27_313_664, 32_256_000)),
    (FULL, {"gradient_checkpointing": True}, (22_451_712, 25_875_968, 32_256_000)),
    (LORA, {"gradient_checkpointing": True}, (10_816_512, 11_272_704, 8_676_352)),
]


def request(method=FULL, **training):
    training = {"micro_batch_size": 2, "sequence_length": 64, "trainer": "transformers", **training}
    return parse_request({"model": {"config": LLAMA}, "method": method, "training": training})


@pytest.mark.parametrize(("method", "training", "expected"), TRACED)
def test_every_phase_is_right_to_the_byte(method, training, expected):
    memory = estimate(request(method, **training)).memory
    assert tuple(phase.peak_bytes for phase in memory.phases) == expected


def test_every_batch_of_a_step_is_alive_in_every_phase():
    one, three = (estimate(request(gradient_accumulation_steps=steps)).memory for steps in (2, 4))
    batches = 8 * 2 * 64 * 3 * 2
    differences = [b.peak_bytes - a.peak_bytes for a, b in zip(one.phases, three.phases, strict=True)]
    assert differences == [batches] * 3


def test_trained_embeddings_keep_32_bit_states():
    def states(trainer):
        components = estimate(request(optimizer="adamw_8bit", trainer=trainer)).memory.components
        return next(part.bytes for part in components if part.name == "optimizer_states")

    elements = 2048 * 256
    in_8_bits = 2 * (elements + 4 * elements // 256)
    assert states("transformers") - states(None) == 8 * elements - in_8_bits


def test_an_8_bit_prompt_has_32_bit_states():
    step = training_step(request({"name": "prompt", "num_virtual_tokens": 32}, optimizer="adamw_8bit"))
    states = {state.name: state.dtype for state in step.resident.optimizer_states if "state" in state.name}
    assert states == {f"prompt_encoder.embedding.weight: state{n}": "float32" for n in (1, 2)}


def test_the_step_keeps_no_graph_after_the_backward_pass():
    step = training_step(request(LORA, gradient_checkpointing=True))
    assert not step.left.counts
    assert training_step(request(LORA, gradient_checkpointing=True, trainer=None)).left.counts


def test_keys_and_values_are_not_cached():
    names = [row[0] for row in training_step(request()).run.rows]
    assert not [name for name in names if "cached" in name]


def test_re_entrant_checkpointing_keeps_a_layers_output_while_it_runs_backward():
    plain, reentrant = (
        {phase.name: phase.peak_bytes for phase in estimate(request(FULL, **training)).memory.phases}
        for training in ({"gradient_checkpointing": True}, RE_ENTRANT)
    )
    assert reentrant["forward"] == plain["forward"]
    assert reentrant["backward"] > plain["backward"]


def test_the_reference_step_refuses_re_entrant_checkpointing():
    with pytest.raises(PlanError, match="the reference step has no such setting"):
        estimate(request(trainer=None, **RE_ENTRANT))


def test_a_trainer_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(PlanError, match="must be one of 'transformers'"):
        request(trainer="sft")


def test_the_answer_states_what_the_trainer_adds():
    assumptions = " ".join(estimate(request(optimizer="adamw_8bit")).assumptions)
    assert "transformers.Trainer" in assumptions
    assert "what a Trainer adds" not in assumptions
    assert "counted in 8 bits too" not in assumptions


@pytest.mark.parametrize("length", [64, 50])
def test_many_micro_batches_are_one_row_of_the_same_bytes(length):
    few, many = (estimate(request(gradient_accumulation_steps=steps, sequence_length=length)) for steps in (1000, 2000))
    ids = 3 * -(-8 * 2 * length // 512) * 512
    assert many.memory.peak_allocated_bytes - few.memory.peak_allocated_bytes == 1000 * ids
    rows = [row for part in many.memory.components for row in part.rows if row.name.startswith("input_ids")]
    assert [(row.name, row.count) for row in rows] == [("input_ids of every micro-batch", 1)]


def test_packing_and_flattened_rows_that_are_not_modeled_are_refused():
    for given, loc, message in (
        ({"packing": True}, "training.packing", "DataCollatorWithFlattening"),
        ({"padding_free": True, "padding": True}, "training.padding", "no padding"),
    ):
        with pytest.raises(PlanError) as refused:
            estimate(request(**given))
        assert any(problem.loc == loc and message in problem.msg for problem in refused.value.problems)


def test_samples_of_a_row_are_separated_by_a_mask_except_with_flash_attention():
    sdpa, flash = (
        estimate(request(padding_free=True, attention=given)).memory.phases[0].peak_bytes
        for given in ("sdpa", "flash_attention_2")
    )
    assert sdpa > flash
