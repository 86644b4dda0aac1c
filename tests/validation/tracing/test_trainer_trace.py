import pytest

from calculator.common.errors import PlanError
from tests.validation.tracing.test_trainer_step import CONFIG
from validation.comparison.show import traced_body

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

B, S = 2, 64


def phases(method="lora", **training):
    common = {"sequence_length": S, "micro_batch_size": B}
    body = {"model": {"config": CONFIG}, "method": {"name": method}, "training": {**common, **training}}
    return traced_body(body).phases


def added(method="lora", **training):
    """Bytes that the Trainer adds to the reference step in each phase."""
    ours, reference = phases(method, trainer="transformers", **training), phases(method, **training)
    return {phase: ours[phase] - reference[phase] for phase in ours}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_trainer_keeps_three_columns_of_every_micro_batch_and_some_scalars(accumulated):
    columns = 8 * B * S * (3 * accumulated - 1)
    assert added(gradient_accumulation_steps=accumulated)["backward"] == columns + 5 * 512


def test_the_trainer_keeps_no_embedding_of_the_step_before():
    kept = 2 * 2 * B * S * 64
    columns = 8 * B * S * 2
    assert added(gradient_checkpointing=True)["forward"] == columns + 4 * 512 - kept


def test_the_trainer_keeps_the_8_bit_states_of_embeddings_in_32_bits():
    more = 300 * 64 * 8 - (300 * 64 * 2 + 2 * 4 * 300 * 64 // 256)
    columns = 8 * B * S * 2
    assert added("full", optimizer="adamw_8bit")["optimizer_step"] == pytest.approx(more + columns, abs=4096)


def test_a_mask_with_padding_is_used():
    assert phases(trainer="transformers", padding=True)["forward"] > phases(trainer="transformers")["forward"]


def test_a_trainer_that_is_not_traced_is_refused_by_name():
    with pytest.raises(PlanError, match="traced are transformers"):
        phases(trainer="unsloth")
