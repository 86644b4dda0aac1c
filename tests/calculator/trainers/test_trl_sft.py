"""TRL's SFTTrainer. tests/cases/recipes.jsonl has traced steps of three releases."""

from math import prod

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.sample_lengths import with_longest_batch
from calculator.estimation.series import SeriesCache
from calculator.layers.trl.fused_head import TOKEN_CHUNK_SIZE, VOCAB_CHUNK_SIZE
from calculator.resident.per_parameter import tensors

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
QLORA = {"name": "qlora", "r": 8, "target_modules": "all-linear", "prepare_model_for_kbit_training": False}
MODEL = "meta-llama/Llama-3.2-1B"
BF16 = {"autocast": "bfloat16"}


def request(method=LORA, model=MODEL, trl="1.16", **training):
    training = {"sequence_length": 512, "trainer": "trl-sft", **training}
    return parse_request({"model": model, "method": method, "training": training, "stack": {"trl": trl}})


def rows(wanted):
    return training_step(wanted).run.rows


def peaks(wanted):
    return {phase.name: phase.peak_bytes for phase in estimate(wanted).memory.phases}


def test_the_fused_head_has_the_logits_of_one_tile():
    shapes = {row[1] for row in rows(request(sequence_length=8192)) if row[0].endswith("tile of logits")}
    assert shapes == {(TOKEN_CHUNK_SIZE, VOCAB_CHUNK_SIZE)}


def test_float32_weights_under_autocast_are_copied_by_tiles():
    shapes = [row[1] for row in rows(request(dtype="float32", **BF16)) if "head of a tile" in row[0]]
    assert shapes.count((VOCAB_CHUNK_SIZE, 2048)) == 4
    assert not [row for row in rows(request(**BF16)) if "head of a tile" in row[0]]


def test_only_labeled_tokens_reach_the_head():
    (shape,) = {row[1] for row in rows(request(completion_tokens=100)) if "hidden states of labeled" in row[0]}
    assert shape == (100, 2048)


@pytest.mark.parametrize(("trl", "logits"), [("1.16", False), ("1.9", False), ("1.0", True), ("0.24", True)])
def test_the_release_decides_whether_all_logits_are_computed(trl, logits):
    found = [row for row in rows(request(trl=trl)) if row[1][-1:] == (128_256,) and prod(row[1][:-1]) >= 511]
    assert bool(found) is logits


def test_an_older_loss_is_a_request_away():
    all_logits, chunks = (peaks(request(trl="1.9", sequence_length=4096, loss_type=loss)) for loss in ("nll", None))
    assert all_logits["forward"] > chunks["forward"]


def test_more_chunks_need_no_more_memory_in_the_loss():
    few, many = (training_step(request(trl="1.9", sequence_length=length)) for length in (1024, 4096))
    largest = [max(row[4] for row in step.run.rows if 128_256 in row[1]) for step in (few, many)]
    assert largest[0] == largest[1]


def test_sizes_of_one_series_give_the_figures_of_single_requests():
    series = SeriesCache()
    for length in (128, 256, 300, 512, 1024, 5000):
        wanted = request(trl="1.9", sequence_length=length)
        assert [p.bytes for p in training_step(wanted, series).peaks()] == [
            p.bytes for p in training_step(wanted).peaks()
        ]


def test_trained_parameters_of_a_4_bit_model_are_bfloat16():
    step = training_step(request(QLORA))
    assert {tensor.dtype for tensor in step.resident.tensors if tensor.trained} == {"bfloat16"}
    dora = training_step(request({**QLORA, "use_dora": True}))
    dtypes = {tensor.dtype for tensor in dora.resident.tensors if "magnitude" in tensor.name}
    assert dtypes == {"float32"}


def test_0_24_casts_embeddings_and_head_of_a_prepared_model_back():
    prepared = {**QLORA, "prepare_model_for_kbit_training": True}
    kwargs = {"gradient_checkpointing_kwargs": {"use_reentrant": False}}
    dtypes = {
        tensor.name: tensor.dtype
        for tensor in training_step(request(prepared, trl="0.24", **BF16, **kwargs)).resident.tensors
    }
    assert dtypes["model.embed_tokens.weight"] == "bfloat16"
    assert dtypes["model.norm.weight"] == "float32"


MISTRAL = {
    "model": "mistralai/Mistral-7B-v0.1",
    "training": {"sequence_length": 512, "gradient_checkpointing": True, "attention": "flash_attention_2", **BF16},
}


def older(method, trainer="trl-sft", trl="0.11.4", **training):
    """A request of the time of TRL 0.11."""
    stack = {"transformers": "4.45.2", "peft": "0.13.2", "bitsandbytes": "0.43.3"}
    stack |= {"trl": trl} if trainer == "trl-sft" else {}
    training = {**MISTRAL["training"], "trainer": trainer, **training}
    return parse_request({**MISTRAL, "method": method, "training": training, "stack": stack})


def test_older_releases_leave_the_loss_to_the_model():
    lora = {"name": "lora", "r": 16}
    assert peaks(older(lora)) == peaks(older(lora, trainer="transformers"))
    assert "TRL 0.11.4 leaves the loss to the model" in " ".join(estimate(older(lora)).assumptions)


@pytest.mark.parametrize("trl", ["0.9.6", "0.13.0"])
def test_older_releases_cast_embeddings_and_head_of_a_prepared_model_back(trl):
    tensors = training_step(older({"name": "qlora"}, trl=trl)).resident.tensors
    dtypes = {tensor.name: tensor.dtype for tensor in tensors}
    assert (dtypes["lm_head.weight"], dtypes["model.norm.weight"]) == ("bfloat16", "float32")
    assert {tensor.dtype for tensor in tensors if tensor.trained} == {"float32"}


@pytest.mark.parametrize(
    ("wanted", "loc"),
    [
        (lambda: older(LORA, loss_type="nll"), "training.loss_type"),
        (lambda: older({"name": "qlora", "prepare_model_for_kbit_training": False}), "method.prepare_model_for_kbit"),
        (lambda: request(trl="0.13"), "stack.trl"),
        (lambda: older(LORA, trl="0.18"), "stack.trl"),
        (lambda: older(LORA, packing=True), "training.packing"),
        (lambda: older(LORA, padding_free=True), "training.padding_free"),
    ],
)
def test_features_that_older_releases_lack_are_refused_by_name(wanted, loc):
    with pytest.raises(PlanError) as refused:
        estimate(wanted())
    assert [problem.loc.startswith(loc) for problem in refused.value.problems] == [True]


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"trl": "1.0", "loss_type": "chunked_nll"}, "training.loss_type"),
        ({"trl": "1.9", "loss_type": "dft"}, "training.loss_type"),
        ({"trl": "1.9", "use_liger_kernel": True}, "training.use_liger_kernel"),
        ({"trl": "0.24", "method": QLORA}, "method.prepare_model_for_kbit_training"),
        ({"method": {"name": "lora", "target_modules": ["lm_head"]}}, "method.target_modules"),
        ({"trl": "1.9", "model": "mistralai/Mixtral-8x7B-v0.1", "method": {"name": "full"}}, "training.trainer"),
        ({"packing": True, "padding": True}, "training.padding"),
        ({"packing": True, "trl": "0.24", "packing_strategy": "bfd_split"}, "training.packing_strategy"),
        ({"packing_strategy": "wrapped"}, "training.packing_strategy"),
        ({"padding_free": True, "model": "facebook/opt-125m"}, "training.padding_free"),
        ({"completion_tokens": 512}, "training.completion_tokens"),
        ({"trl": "1.4"}, "stack.trl"),
    ],
)
def test_a_refusal_names_its_field(changes, loc):
    with pytest.raises(PlanError) as refused:
        estimate(request(**changes))
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_defaults_of_the_trainer_that_the_request_lacks_are_warned_about():
    said = " ".join(estimate(request()).warnings)
    assert "bf16=True" in said
    assert "gradient_checkpointing=True" in said
    assert "in float32" in said
    assert not estimate(request(dtype="float32", gradient_checkpointing=True, **BF16)).warnings


def test_the_answer_names_the_release_and_its_loss():
    assert "TRL 1.16 computes the loss in its fused output head" in " ".join(estimate(request()).assumptions)
    assert "TRL 1.9 computes the loss from the logits of 256" in " ".join(estimate(request(trl="1.9")).assumptions)


def test_rows_that_are_cut_from_a_stream_are_an_unpadded_batch():
    assert peaks(request(packing=True, packing_strategy="wrapped")) == peaks(request())


def test_packing_with_bfd_is_padding_free_and_sdpa_needs_a_mask():
    packed = peaks(request(packing=True, micro_batch_size=2))
    assert packed == peaks(request(padding_free=True, micro_batch_size=2))
    assert (
        packed["forward"]
        > peaks(request(padding_free=True, micro_batch_size=2, attention="flash_attention_2"))["forward"]
    )


@pytest.mark.parametrize(
    ("changes", "tokens", "samples"),
    [
        ({"padding_free": True}, 1500 * 2 + 700, 3),
        ({"packing": True, "sequence_length": 1024}, 3 * 1024, 2 * 3),
        ({"packing": True, "packing_strategy": "bfd_split", "sequence_length": 1024}, 3 * 1024, 2 * 3),
    ],
)
def test_flattened_micro_batches_have_the_tokens_of_the_longest_samples_or_rows(changes, tokens, samples):
    lengths = ((324, 20), (700, 18), (1500, 2))
    wanted = request(micro_batch_size=3, sequence_lengths=lengths, **{"sequence_length": 2048, **changes})
    drawn = with_longest_batch(wanted).training
    assert (drawn.micro_batch_size * drawn.sequence_length, drawn.samples) == (tokens, samples)


def test_packed_sequences_are_one_row():
    wanted = {"packing": True, "attention": "flash_attention_2", "gradient_checkpointing": True, **BF16}
    packed = training_step(request(micro_batch_size=4, **wanted))
    shapes = {row[1] for row in packed.run.rows if row[0] == "model.embed_tokens: output"}
    assert shapes == {(1, 4 * 512, 2048)}
    kept = {tensor.name for tensor in tensors(packed.resident.optimizer_states)}
    assert "position_ids" in kept
    assert "attention_mask" not in kept


def test_transformers_has_no_packing():
    with pytest.raises(PlanError, match="packs no samples"):
        estimate(request(trainer="transformers", packing=True))


def test_magnitudes_of_a_4_bit_model_are_in_float32_with_any_dtype_of_adapters():
    method = {"name": "qlora", "use_dora": True, "prepare_model_for_kbit_training": False, "target_modules": ["q_proj"]}
    both = [peaks(request(method, adapter_dtype=given)) for given in ("model", "float32")]
    assert both[0] == both[1]


def test_adaption_prompts_run_the_forward_that_the_trainer_replaces():
    prompts = {"name": "adaption_prompt"}
    with pytest.raises(PlanError, match="which replaces it for its loss, raises an error: use the trainer transf"):
        estimate(request(prompts))
    assert estimate(request(prompts, trainer="transformers")).memory.peak_allocated_bytes
