"""What an answer says about gradients that are summed in parts on CUDA: the bytes of a step that has them."""

import pytest

from calculator.engine.cuda_embedding import PARTIAL_ROWS
from calculator.engine.cuda_reductions import PARTIAL_SUMS, SUMS_OF_TOKENS
from calculator.estimation import cuda_remarks
from calculator.estimation.cuda_difference import largest
from calculator.estimation.cuda_experts import EXPERTS as EXPERTS_DIFFERENCE
from calculator.estimation.cuda_remarks import DIFFERENCES
from calculator.estimation.cuda_sums import EMBEDDING, MEANS, POOLING, SUMS
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request

LLAMA = {
    "model_type": "llama",
    "vocab_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 512,
    "intermediate_size": 512,
}
#: A model whose peak in float32 is where the norms' gradients are summed.
WIDE = {**LLAMA, "num_hidden_layers": 2, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
WIDE |= {"intermediate_size": 1536}
BERT = {"model_type": "bert", "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
BERT |= {"intermediate_size": 128, "max_position_embeddings": 2048}
MODERN = {**LLAMA, "num_hidden_layers": 1}
EXPERTS = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
SHORT = {"micro_batch_size": 4, "sequence_length": 1024, "gradient_checkpointing": True}


def request(kind="meta", method="full", config=LLAMA, task="causal_lm", **training):
    training = {**SHORT, **training}
    body = {"model": {"config": config}, "method": {"name": method}, "training": training, "device": {"type": kind}}
    body |= {"task": task}
    return parse_request({**body, "reserved": "rule"})


def steps(**settings):
    return training_step(request(**settings)), training_step(request("cuda", **settings))


@pytest.mark.parametrize("tied", [False, True])
def test_the_bytes_are_known_from_a_step_without_them(tied):
    traced, on_cuda = steps(config={**LLAMA, "vocab_size": 8192, "tie_word_embeddings": tied})
    for difference, name in ((SUMS, PARTIAL_SUMS), (EMBEDDING, PARTIAL_ROWS)):
        assert not largest(traced, name)
        assert largest(on_cuda, name) <= difference.most(traced) < 1.1 * largest(on_cuda, name)
        assert difference.most(on_cuda) == difference.most(traced)


def test_an_answer_says_by_how_much_partial_sums_raise_the_peak():
    float32 = {"dtype": "float32", "gradient_checkpointing": False}
    traced, on_cuda = (estimate(request(kind, config=WIDE, **float32)) for kind in ("meta", "cuda"))
    higher = on_cuda.memory.peak_allocated_bytes - traced.memory.peak_allocated_bytes
    (sentence,) = [line for line in traced.assumptions if line.startswith("On CUDA")]
    assert higher > 0
    assert f"is {higher:,} bytes higher; with device.type cuda" in sentence
    assert "whose thread blocks have a buffer" in sentence
    assert any("thread blocks" in line for line in on_cuda.assumptions)


def test_frozen_norms_and_embeddings_have_no_sums():
    traced, on_cuda = steps(method="lora")
    assert SUMS.most(traced) == EMBEDDING.most(traced) == largest(on_cuda, PARTIAL_SUMS) == 0


def test_a_second_step_is_interpreted_only_where_the_peak_can_differ(monkeypatch):
    monkeypatch.setattr(cuda_remarks, "TrainingStep", None)
    many_weights = {**LLAMA, "num_hidden_layers": 40, "intermediate_size": 8192}
    for each in (request(method="lora"), request(config=many_weights, micro_batch_size=1)):
        assert not [line for line in estimate(each).assumptions if "bytes higher" in line]


def test_every_difference_has_a_sentence_only_where_a_step_has_it():
    _, on_cuda = steps(method="lora")
    assert not [
        difference for difference in DIFFERENCES if difference.most(on_cuda) and not difference.sentence(on_cuda)
    ]


def test_the_means_of_an_optimizer_have_a_buffer():
    """The step's peak is measured with PyTorch 2.14 on the stub of an A100."""
    config = {**LLAMA, "num_hidden_layers": 2, "hidden_size": 2048, "intermediate_size": 2048, "vocab_size": 1024}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": True}
    short = {"micro_batch_size": 1, "sequence_length": 64, "max_grad_norm": None, "gradient_checkpointing": False}
    measured = {"adafactor": ("optimizer_step", 327_500_288), "adalomo": ("backward", 210_075_136)}
    for optimizer, (phase, size) in measured.items():
        step = training_step(request("cuda", config=config, optimizer=optimizer, **short))
        assert {peak.phase: peak.bytes for peak in step.deciding_peaks()}[phase] == size
        assert MEANS.most(step) == 33_554_432 + 512
        assert f"{MEANS.most(step):,} bytes" in MEANS.sentence(step)
    step = training_step(request("cuda", config=config, **short))
    assert (MEANS.most(step), MEANS.sentence(step)) == (0, "")


def test_the_mean_over_many_tokens_has_a_buffer():
    for config in (BERT, MODERN):
        for task, length, has_one in (("feature_extraction", 1024, True), ("feature_extraction", 256, False)):
            traced, on_cuda = (
                training_step(request(kind, config=config, task=task, sequence_length=length))
                for kind in ("meta", "cuda")
            )
            size = largest(on_cuda, SUMS_OF_TOKENS)
            assert bool(size) == has_one
            assert size <= POOLING.most(traced) <= size + 512
            assert POOLING.sentence(on_cuda) == "" or f"{size:,} bytes" in POOLING.sentence(on_cuda)
            assert not largest(traced, SUMS_OF_TOKENS)


def test_experts_sort_their_rows_and_add_gradients_up_in_place():
    traced, on_cuda = steps(config=EXPERTS)
    assert EXPERTS_DIFFERENCE.most(traced) > 0
    assert "Experts sort their rows" in EXPERTS_DIFFERENCE.sentence(on_cuda)
    assert largest(on_cuda, "order before the sort") == 4 * 1024 * 2 * 8
    assert not largest(traced, "order before the sort")
    traced, _ = steps()
    assert (EXPERTS_DIFFERENCE.most(traced), EXPERTS_DIFFERENCE.sentence(traced)) == (0, "")
