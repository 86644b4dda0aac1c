"""Requests for sequence classification: what is answered, what is refused, and what an answer states."""

import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from tests.paths import CASE_FILES

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
BERT = {"model_type": "bert", **SIZES}
LLAMA = {"model_type": "llama", **SIZES}
DISTILBERT = {"model_type": "distilbert", "vocab_size": 96, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4}


def answer(config, method="full", task="seq_cls", training=None, **more):
    method = {"name": method} if isinstance(method, str) else method
    training = {"sequence_length": 32, **(training or {})}
    body = {"model": {"config": config}, "method": method, "training": training, "task": task, "reserved": "rule"}
    return estimate(parse_request({**body, **more}))


def refusals(*arguments, **more):
    with pytest.raises(PlanError) as raised:
        answer(*arguments, **more)
    return {problem.loc: problem.msg for problem in raised.value.problems}


def test_peft_trains_a_copy_of_the_head_with_lora():
    plan = answer(BERT, "lora", num_labels=3)
    head = 3 * 64 + 3
    assert plan.parameters.base == answer(BERT, num_labels=3).parameters.total
    assert plan.parameters.trainable == plan.parameters.added == head + 2 * 2 * 8 * (64 + 64)
    assert "PEFT copies the head and trains the copy in full." in plan.assumptions


def test_adapters_train_the_head_itself():
    plan = answer(BERT, "adapter", num_labels=3)
    assert plan.parameters.trainable == plan.parameters.added + 3 * 64 + 3
    assert "The head is trained in full too." in plan.assumptions


def test_an_encoder_has_no_logits_of_the_vocabulary():
    names = {row.name for part in answer(BERT).memory.components for row in part.rows}
    assert not any("cls.predictions" in name for name in names)


def test_the_answer_names_the_task_and_the_loss():
    plan = answer(LLAMA, num_labels=1)
    assert plan.model.task == "seq_cls"
    assert any("whose head has 1 output. The loss is that of regression" in line for line in plan.assumptions)
    assert any("The config has no pad_token_id" in line for line in plan.assumptions)


def test_a_language_model_has_no_labels():
    assert refusals(LLAMA, task="causal_lm", num_labels=3, problem_type="regression") == {
        "num_labels": "only classifiers have num_labels: set task seq_cls, token_cls or image_cls, or leave it out",
        "problem_type": "only classifiers have a problem_type: set task seq_cls or image_cls, or leave it out",
    }


def test_an_encoder_is_answered_for_its_tasks_only():
    assert refusals(BERT, task="causal_lm")["task"].endswith(
        "is not modeled for causal_lm: set task seq_cls or token_cls or question_ans or feature_extraction"
    )


@pytest.mark.parametrize(("task", "head"), [("token_cls", "classifier"), ("question_ans", "qa_outputs")])
def test_the_head_of_a_model_of_tokens_is_trained_and_not_adapted(task, head):
    plan = answer(BERT, "lora", task=task)
    assert plan.parameters.trainable == plan.parameters.added == 2 * 64 + 2 + 2 * 2 * 8 * (64 + 64)
    for targets in ("all-linear", [head]):
        refused = refusals(BERT, {"name": "lora", "target_modules": targets}, task=task)
        assert refused["method.target_modules"].startswith(f"PEFT adapts the head {head} too")


MODERNBERT = {"model_type": "modernbert", **SIZES, "pad_token_id": 0}


def test_a_head_that_peft_does_not_know_stays_frozen():
    lora = {"name": "lora", "target_modules": ["Wqkv"]}
    plan = answer(MODERNBERT, lora, task="question_ans")
    assert plan.parameters.trainable == 2 * 8 * (64 + 3 * 64)
    assert any("its head classifier is frozen unless modules_to_save names it" in line for line in plan.assumptions)
    head = answer(MODERNBERT, lora, num_labels=3).parameters.trainable - plan.parameters.trainable
    assert head == 3 * 64 + 3


def test_an_encoder_with_windows_makes_masks_for_sequences_as_long_as_a_window():
    def masked(length, **config):
        plan = answer({**MODERNBERT, **config}, training={"sequence_length": length})
        return any("attention bias" in row.name for part in plan.memory.components for row in part.rows)

    assert not masked(63)
    assert masked(64)
    assert not masked(64, local_attention=130)


DEBERTA = {
    "model_type": "deberta-v2",
    **SIZES,
    "relative_attention": True,
    "position_buckets": 16,
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}


def test_disentangled_attention_keeps_the_scores_of_all_distances():
    """Two products for each layer, of every token with both directions of every bucket."""

    def kept(**config):
        plan = answer({**DEBERTA, **config}, "lora", training={"dtype": "float32"})
        rows = [row for part in plan.memory.components for row in part.rows]
        return sum(row.bytes for row in rows if row.name.endswith(("attention.self: c2p", "attention.self: p2c")))

    assert kept() == 2 * 2 * 4 * 32 * (2 * 16) * 4
    assert kept(pos_att_type=["c2p"]) == kept() // 2
    assert kept(relative_attention=False) == 0


def test_a_projection_that_positions_share_is_trained_once():
    plan = answer(DEBERTA, "lora", num_labels=3)
    assert plan.parameters.trainable == 2 * 2 * 8 * (64 + 64) + 3 * 64 + 3


@pytest.mark.parametrize(
    ("config", "training", "loc"),
    [
        ({"conv_kernel_size": 3}, {}, "model.config.conv_kernel_size"),
        ({"attention_head_size": 8}, {}, "model.config.head_dim"),
        ({"pooler_hidden_size": 32}, {}, "model.config.pooler_hidden_size"),
        ({}, {"attention": "flash_attention_2"}, "training.attention"),
    ],
)
def test_a_refusal_of_deberta_names_its_field(config, training, loc):
    assert loc in refusals({**DEBERTA, **config}, training=training)


def test_virtual_tokens_have_no_labels():
    assert "not to the labels" in refusals(BERT, "prompt", task="token_cls")["method.name"]
    assert answer(BERT, "prompt", task="question_ans").parameters.added == 20 * 64 + 2 * 64 + 2


def test_a_4_bit_head_with_a_bias_is_refused():
    llama = {**LLAMA, "num_key_value_heads": 4}
    assert "stores the head score of llama in 4 bits" in refusals(llama, "qlora", task="token_cls")["method.name"]


def test_a_token_classifier_reads_its_dropout_from_the_file():
    def forward_peak(**config):
        plan = answer({**LLAMA, **config}, task="token_cls", num_labels=1000)
        return plan.memory.phases[0].peak_bytes

    mask_and_copy = 32 * 64 * (1 + 2)
    without = forward_peak(classifier_dropout=0.0)
    assert forward_peak() == forward_peak(hidden_dropout=0.5) == without + mask_and_copy
    assert forward_peak(hidden_dropout=0) == without
    assert refusals({**LLAMA, "classifier_dropout": 2}, task="token_cls").keys() == {"model.config.classifier_dropout"}


def test_the_answer_names_the_model_of_tokens():
    assert any("two outputs for each token" in line for line in answer(BERT, task="question_ans").assumptions)
    named = answer(LLAMA, task="token_cls", num_labels=9).assumptions
    assert any("AutoModelForTokenClassification, whose head has 9 outputs for each token" in line for line in named)


def test_a_family_without_a_classifier_is_refused_with_those_that_have_one():
    message = refusals({"model_type": "cohere", **SIZES})["task"]
    assert message.startswith("seq_cls of cohere is not modeled: leave task out, or use a model of another type:")
    assert "llama" in message
    assert "bert" in message


@pytest.mark.parametrize(
    ("more", "loc", "message"),
    [
        ({"training": {"trainer": "trl-sft"}}, "training.trainer", "in the reference step and with transformers"),
        ({"device": {"count": 2, "sharding": "ddp"}}, "device.sharding", "on one GPU only"),
        ({"stack": {"transformers": "5.0"}}, "stack", "with the default releases only"),
        ({"method": "prefix"}, "method.name", "PEFT finds no argument past_key_values"),
        ({"method": "qlora"}, "method.name", "stores the head classifier of bert in 4 bits"),
    ],
)
def test_a_refusal_names_a_solution(more, loc, message):
    assert message in refusals(BERT, **more)[loc]


def test_distilberts_first_head_is_copied_and_no_target():
    message = refusals(DISTILBERT, {"name": "lora", "target_modules": "all-linear"})["method.target_modules"]
    assert message == (
        "PEFT trains a copy of pre_classifier and can't adapt it too: name the attention's projections"
        " (q_lin, k_lin, v_lin, out_lin)"
    )
    assert "can't read the width of the embeddings" in refusals(DISTILBERT, "prompt")["method.name"]


def test_robertas_positions_begin_after_the_padding_token():
    config = {**BERT, "model_type": "roberta", "max_position_embeddings": 66}
    assert answer(config, training={"sequence_length": 64}).memory.peak_allocated_bytes
    assert "the model has 64 only" in refusals(config, training={"sequence_length": 65})["training.sequence_length"]


@pytest.mark.parametrize("size", [{"micro_batch_size": 3}, {"sequence_length": 24}])
def test_answers_of_another_task_do_not_share_figures(size):
    """Answers of one kind share their work: that of another task is not among them."""
    first = answer(LLAMA, training=size)
    assert answer(LLAMA, task="causal_lm", training=size).memory != first.memory
    assert answer(LLAMA, training=size).memory == first.memory


BART = {
    "model_type": "bart",
    "vocab_size": 96,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
}


def phases(plan):
    return {phase.name: phase.peak_bytes for phase in plan.memory.phases}


def seq2seq(method="full", training=None, **more):
    return answer(more.pop("config", BART), method, "seq_2_seq_lm", training, **more)


def test_a_target_has_the_length_of_the_source_unless_it_is_given():
    assert phases(seq2seq()) == phases(seq2seq(training={"target_length": 32}))
    assert phases(seq2seq())["forward"] > phases(seq2seq(training={"target_length": 8}))["forward"]


@pytest.mark.parametrize("size", [{"micro_batch_size": 3}, {"sequence_length": 24, "target_length": 16}])
def test_an_encoder_decoder_of_another_size_has_the_figures_of_a_first_request(size):
    seq2seq("lora")
    body = {"model": {"config": BART}, "method": {"name": "lora"}, "task": "seq_2_seq_lm", "reserved": "rule"}
    first = estimate(parse_request({**body, "training": {"sequence_length": 32, **size}}), SeriesCache())
    assert phases(seq2seq("lora", size)) == phases(first)


def test_a_prompt_of_an_encoder_decoder_has_rows_for_both_stacks():
    assert seq2seq({"name": "prompt", "num_virtual_tokens": 5}).parameters.added == 2 * 5 * 64


def test_a_prefix_of_an_encoder_decoder_is_for_the_decoders_own_attention():
    plan = seq2seq({"name": "prefix", "num_virtual_tokens": 5}, config={**BART, "decoder_layers": 2})
    assert plan.parameters.added == plan.parameters.trainable == 2 * 2 * 5 * 64


def test_a_shared_table_that_is_not_tied_has_no_gradient():
    """Each stack looks words up in a table of its own."""
    tied, untied = seq2seq(), seq2seq(config={**BART, "tie_word_embeddings": False})
    assert untied.parameters.total == tied.parameters.total + 3 * 96 * 64
    names = {row.name for part in untied.memory.components for row in part.rows if part.name == "gradients"}
    assert not any("shared" in name for name in names)


@pytest.mark.parametrize(
    ("more", "loc", "message"),
    [
        ({"training": {"attention": "eager"}}, "training.attention", "with sdpa only, not eager: use sdpa"),
        ({"training": {"dtype": "float16"}}, "training.dtype", "clamp float16 states"),
        (
            {
                "training": {
                    "trainer": "transformers",
                    "gradient_checkpointing": True,
                    "gradient_checkpointing_kwargs": {"use_reentrant": True},
                }
            },
            "training.gradient_checkpointing_kwargs.use_reentrant",
            "that reads an encoder's states are not modeled: use false",
        ),
        ({"training": {"target_length": 65}}, "training.target_length", "the model has 64 only"),
        ({"method": "prefix"}, "method.name", "is for 2 layers, as the encoder has; the decoder has 3"),
        (
            {"method": "prefix", "config": {**BART, "decoder_layers": 2, "decoder_attention_heads": 2}},
            "method.name",
            "the decoder has 2 heads of 16",
        ),
        ({"method": {"name": "lora", "modules_to_save": ["shared"]}}, "method.modules_to_save", "leave it out"),
    ],
)
def test_a_refusal_of_an_encoder_decoder_names_a_solution(more, loc, message):
    with pytest.raises(PlanError) as raised:
        seq2seq(**more)
    assert message in {problem.loc: problem.msg for problem in raised.value.problems}[loc]


T5 = {
    "model_type": "t5",
    "vocab_size": 96,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


@pytest.mark.parametrize(
    ("more", "loc", "message"),
    [
        ({"method": {"name": "lora", "modules_to_save": ["bias"]}}, "method.modules_to_save", "name other modules"),
        ({"config": {**T5, "pad_token_id": None}}, "model.config.pad_token_id", "is required"),
    ],
)
def test_a_refusal_of_t5_names_a_solution(more, loc, message):
    with pytest.raises(PlanError) as raised:
        seq2seq(**{"config": T5, "method": "lora", **more})
    assert message in {problem.loc: problem.msg for problem in raised.value.problems}[loc]


def test_a_catalogue_model_of_t5_is_answered():
    body = {"model": "google-t5/t5-small", "method": {"name": "prompt"}, "task": "seq_2_seq_lm", "reserved": "rule"}
    plan = estimate(parse_request({**body, "training": {"sequence_length": 64}}))
    assert plan.parameters.added == 2 * 20 * 512
    assert any("no decoder_start_token_id" in line for line in plan.assumptions)


def test_every_layer_of_t5_keeps_its_own_bias():
    """A bias has a number for every head and pair of tokens; attention saves a copy of it in each layer."""
    plan = seq2seq("lora", {"sequence_length": 128, "target_length": 8}, config=T5)
    rows = [row for part in plan.memory.components for row in part.rows if "position bias, contiguous" in row.name]
    assert sum(row.bytes for row in rows if row.bytes >= 4 * 128 * 128 * 2) >= 2 * 4 * 128 * 128 * 2


def test_full_fine_tuning_of_t5_has_a_gradient_of_each_layers_bias():
    """The memory-efficient kernel writes it for every sequence and head, in rows of a multiple of 16 numbers."""
    training = {"sequence_length": 24, "target_length": 8, "micro_batch_size": 2, "gradient_checkpointing": True}
    body = {"model": {"config": T5}, "method": {"name": "full"}, "task": "seq_2_seq_lm", "training": training}
    rows = training_step(parse_request(body)).run.storages.rows
    shapes = {row[1] for row in rows if row[0].endswith("attention bias: gradient")}
    assert shapes == {(2, 4, 24, 32), (2, 4, 8, 16), (2, 4, 8, 32)}


def test_adapters_follow_self_attention_and_the_mlp_of_both_stacks():
    plan = seq2seq({"name": "adapter", "bottleneck_size": 8}, config=T5)
    assert plan.parameters.added == 2 * 4 * (2 * 64 * 8 + 8 + 64)


def test_a_target_length_is_an_encoder_decoders():
    message = refusals(LLAMA, task="causal_lm", training={"target_length": 8})["training.target_length"]
    assert message == "only encoder-decoders have a target: set task seq_2_seq_lm, or leave it out"


def test_the_cases_cover_every_encoder_and_loss():
    cases = [json.loads(line) for line in (CASE_FILES / "tasks.jsonl").read_text().splitlines()]
    requests = [case["request"] for case in cases]
    assert {"bert", "roberta", "xlm-roberta", "distilbert", "bart", "t5", "modernbert", "deberta-v2"} <= {
        request["model"]["config"]["model_type"] for request in requests
    }
    losses = {request.get("problem_type") for request in requests}
    assert losses == {None, "regression", "multi_label_classification"}
