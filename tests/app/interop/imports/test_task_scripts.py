"""Scripts of tasks other than causal language modeling, by the class that loads their model."""

import pytest

from app.interop.exports import export
from app.interop.imports import read
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

LOADED = """
model = AutoModelForSequenceClassification.from_pretrained("FacebookAI/roberta-large", num_labels=3)
model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"]))
args = TrainingArguments("out", per_device_train_batch_size=4, bf16=True)
Trainer(model, args, train_dataset=rows).train()
"""

IMAGES = """
model = AutoModelForImageClassification.from_pretrained(
    "google/vit-base-patch16-224-in21k", num_labels=3, id2label=names, label2id=ids, ignore_mismatched_sizes=True
)
model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]))
args = TrainingArguments("out", per_device_train_batch_size=32)
"""

REWARDED = """
scorer = AutoModelForSequenceClassification.from_pretrained("FacebookAI/roberta-large", num_labels=1)
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B")
args = TrainingArguments("out")
"""


def test_a_classifier_is_read_with_its_labels():
    request = read(LOADED).request
    assert (request["model"], request["task"], request["num_labels"]) == ("FacebookAI/roberta-large", "seq_cls", 3)
    assert request["training"]["trainer"] == "transformers"
    assert request["method"]["target_modules"] == ["query", "value"]


def test_images_have_no_length_and_their_labels_may_have_names():
    found = read(IMAGES)
    assert (found.request["task"], found.request["num_labels"]) == ("image_cls", 3)
    assert not {"padding", "sequence_length"} & found.request["training"].keys()
    assert not found.not_understood
    assert estimate(parse_request({**found.request, "reserved": "rule"})).model.task == "image_cls"


def test_audio_has_no_length_to_read():
    found = read(
        'model = WhisperForConditionalGeneration.from_pretrained("openai/whisper-small")\n'
        'model = get_peft_model(model, LoraConfig(r=32, target_modules=["q_proj", "v_proj"]))\n'
        'args = Seq2SeqTrainingArguments("out", per_device_train_batch_size=8)\n'
        "trainer = Seq2SeqTrainer(model, args)\n"
    )
    assert (found.request["model"], found.request["task"]) == ("openai/whisper-small", "seq_2_seq_lm")
    assert estimate(parse_request({**found.request, "reserved": "rule"})).parameters.base == 241_734_912


@pytest.mark.parametrize(
    ("loaded", "class_name", "task"),
    [
        ("unsloth/whisper-large-v3", "WhisperForConditionalGeneration", "seq_2_seq_lm"),
        ("unsloth/ModernBERT-large", "AutoModelForSequenceClassification", "seq_cls"),
    ],
)
def test_fast_model_loads_the_class_of_a_task(loaded, class_name, task):
    found = read(
        f'model, tokenizer = FastModel.from_pretrained("{loaded}", auto_model={class_name}, full_finetuning=True)\n'
        'model = FastModel.get_peft_model(model, r=64, target_modules=["q_proj", "v_proj"])\n'
        'trainer = Trainer(model, TrainingArguments("out", per_device_train_batch_size=2))\n'
    )
    assert (found.request["task"], found.request["method"]) == (task, {"name": "full"})
    assert "auto_model" not in {remark.key for remark in found.not_understood}
    assert {"r", "target_modules"} <= {*found.without_effect}


def test_a_script_that_scores_answers_trains_the_language_model():
    request = read(REWARDED).request
    assert request["model"] == "meta-llama/Llama-3.2-1B"
    assert "task" not in request


@pytest.mark.parametrize(
    ("model", "task", "labels"),
    [
        ("FacebookAI/roberta-large", "seq_cls", {"num_labels": 5, "problem_type": "multi_label_classification"}),
        ("google-bert/bert-base-uncased", "token_cls", {"num_labels": 9}),
        ("google-bert/bert-base-uncased", "question_ans", {}),
        ("google/flan-t5-base", "seq_2_seq_lm", {}),
    ],
)
def test_an_exported_script_is_read_as_the_same_task(model, task, labels):
    training = {"trainer": "transformers", "sequence_length": 128, "micro_batch_size": 4}
    body = {"model": model, "task": task, **labels, "method": {"name": "lora"}, "training": training}
    written = export(parse_request({**body, "reserved": "rule"}), "peft").content
    found = read(written, model=model).request
    assert {name: found.get(name) for name in ("model", "task", *labels)} == {"model": model, "task": task, **labels}
    assert found["training"]["micro_batch_size"] == 4


def test_a_script_that_embeds_texts_is_read_by_its_task_type():
    found = read(
        'model = AutoModel.from_pretrained("google-bert/bert-base-uncased")\n'
        'config = LoraConfig(r=8, task_type=TaskType.FEATURE_EXTRACTION, target_modules=["key", "query", "value"])\n'
        "model = get_peft_model(model, config)\n"
    )
    assert (found.request["model"], found.request["task"]) == ("google-bert/bert-base-uncased", "feature_extraction")
    assert "trainer" not in found.request["training"]
    assert estimate(parse_request({**found.request, "reserved": "rule"})).model.task == "feature_extraction"
