"""The exported script of a task builds its model and trains it."""

import re
import runpy
import sys

import pytest

from app.interop.exports import export
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

SIZES = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
BERT = {"model_type": "bert", **SIZES, "num_attention_heads": 4}
LLAMA = {"model_type": "llama", **SIZES, "num_attention_heads": 4}
T5 = {"model_type": "t5", "vocab_size": 300, "d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 2, "num_heads": 4}
WHISPER = {
    "model_type": "whisper",
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 8,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
AUDIO = {
    "method": {"name": "lora", "target_modules": ["q_proj"]},
    "training": {"sequence_length": 8, "target_length": 6},
}


def body(config, task, method="lora", training=None, **more):
    training = {"sequence_length": 32, "micro_batch_size": 2, **(training or {})}
    method = {"name": method} if isinstance(method, str) else method
    return {"model": {"config": config}, "task": task, "method": method, "training": training, **more}


def script(request, file_format="peft"):
    return export(parse_request({**request, "reserved": "rule"}), file_format).content


@pytest.mark.parametrize(
    "request_body",
    [
        body(LLAMA, "seq_cls", training={"padding": True}, num_labels=3),
        body(BERT, "seq_cls", "full", num_labels=4, problem_type="multi_label_classification"),
        body(BERT, "token_cls", num_labels=5),
        body(BERT, "question_ans", training={"gradient_checkpointing": True}),
        body(T5, "seq_2_seq_lm", training={"target_length": 8, "padding": True}),
        body(BERT, "seq_cls", "prompt", num_labels=1),
        body(BERT, "seq_cls", training={"trainer": "transformers", "padding": True}, num_labels=3),
        body(T5, "seq_2_seq_lm", training={"trainer": "transformers", "target_length": 8}),
        body(BERT, "feature_extraction", training={"padding": True}),
        body(LLAMA, "feature_extraction", "prompt", training={"texts_per_example": 3}),
        body(WHISPER, "seq_2_seq_lm", **AUDIO),
    ],
    ids=[
        "llama",
        "multi-label",
        "tokens",
        "answers",
        "t5",
        "regression",
        "Trainer",
        "Trainer, t5",
        "pairs",
        "triples",
        "whisper",
    ],
)
def test_the_script_of_a_task_trains_what_is_planned(request_body, tmp_path, monkeypatch, capsys):
    file = tmp_path / "train.py"
    file.write_text(script(request_body))
    monkeypatch.setattr(sys, "argv", ["train.py", "--steps", "2"])
    runpy.run_path(str(file), run_name="__main__")
    printed = capsys.readouterr().out
    found = re.search(r"trained parameters: ([\d,]+) \(estimated: ([\d,]+)\)", printed)
    assert found[1] == found[2]
    assert re.findall(r"step (\d): loss \d+\.\d+", printed) == ["1", "2"]


def test_the_script_of_a_catalogue_model_loads_it_with_its_labels():
    request = body(BERT, "seq_cls", num_labels=3) | {"model": "FacebookAI/roberta-large"}
    written = script(request)
    assert "AutoModelForSequenceClassification.from_pretrained(\n        model_id,\n        num_labels=3,\n" in written
    assert 'task_type="SEQ_CLS"' in written


@pytest.mark.parametrize(
    ("more", "file_format", "loc"),
    [
        ({}, "axolotl", "task"),
        ({}, "llama-factory", "task"),
        ({"method": {"name": "adapter"}}, "peft", "method.name"),
        (
            {
                "model": "google/vit-base-patch16-224-in21k",
                "task": "image_cls",
                "training": {},
                "method": {"name": "full"},
            },
            "peft",
            "task",
        ),
    ],
)
def test_a_request_without_a_script_names_the_field(more, file_format, loc):
    with pytest.raises(PlanError) as raised:
        script({**body(BERT, "seq_cls"), **more}, file_format)
    assert [problem.loc for problem in raised.value.problems] == [loc]
