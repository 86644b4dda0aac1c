"""The memory check in real trainings on the CPU: what it predicts, measures, prints and records."""

import json
import subprocess
import sys

import jsonschema
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from calculator.common.errors import PlanError
from tests.paths import ROOT
from validation.published.records import record_measurements
from validation.published.report import record_lines
from validation.runtime import MemoryCheck
from validation.runtime.run_request import run_request

SCHEMA = json.loads((ROOT / "validation" / "runtime" / "schema.json").read_text())

LIST_FOREIGN = """
import sys
for name in ("pydantic", "fastapi", "jinja2", "plotly", "prometheus_client", "uvicorn", "peft", "bitsandbytes", "trl"):
    sys.modules[name] = None
import validation.runtime
print("app" in sys.modules)
"""


def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
        use_cache=False,
    )
    config._name_or_path = "/home/somebody/secret-model"
    return LlamaForCausalLM(config)


def samples(lengths):
    return [{"input_ids": [1] * length, "labels": [1] * length, "attention_mask": [1] * length} for length in lengths]


def trained(model, path, check, rows=None, **arguments):
    """Train for four steps on samples of 32 tokens."""
    args = TrainingArguments(
        output_dir=str(path / "out"),
        max_steps=4,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"per_device_train_batch_size": 1, **arguments},
    )
    Trainer(model=model, args=args, train_dataset=rows or samples([32] * 8), callbacks=[check]).train()
    return args


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
def test_memory_between_steps_is_predicted_to_the_byte(optimizer, tmp_path):
    lines = []
    check = MemoryCheck(tmp_path / "memory.json", write=lines.append)
    trained(tiny(), tmp_path, check, optim=optimizer)
    assert [row["step"] for row in check.rows] == [2, 3, 4]
    assert {row["measured"]["resident"] for row in check.rows} == {check.predicted["resident"]}
    assert lines[0].startswith("Headroom predicts resident ")
    assert lines[1].endswith("+0.000%)")
    record = json.loads((tmp_path / "memory.json").read_text())
    jsonschema.validate(record, SCHEMA)
    assert record["rows"] == check.rows
    text = json.dumps(record)
    assert [part for part in ("secret", "somebody", str(tmp_path), "/") if part in text] == []


def test_a_resumed_training_is_measured_in_its_own_steps(tmp_path):
    for resumes in (None, True):
        check = MemoryCheck(write=lambda _: None)
        args = TrainingArguments(
            output_dir=str(tmp_path / "out"),
            max_steps=2 if resumes is None else 8,
            use_cpu=True,
            report_to=[],
            save_steps=2,
            eval_strategy="steps",
            eval_steps=2,
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            per_device_train_batch_size=1,
        )
        rows = samples([32] * 8)
        trainer = Trainer(model=tiny(), args=args, train_dataset=rows, eval_dataset=rows[:1], callbacks=[check])
        trainer.train(resume_from_checkpoint=resumes)
    assert [row["step"] for row in check.rows] == [4, 5, 8]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_read_from_pefts_configuration(tmp_path):
    model = get_peft_model(tiny(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    check = MemoryCheck(write=lambda _: None)
    trained(model, tmp_path, check, optim="adamw_torch", gradient_accumulation_steps=2)
    assert check.request["method"]["name"] == "lora"
    assert check.request["method"]["r"] == 4
    assert check.request["training"]["gradient_accumulation_steps"] == 2
    assert check.rows[-1]["measured"] == {"resident": check.predicted["resident"]}


def encoder_decoder():
    sizes = {"d_model": 64, "d_ff": 160, "d_kv": 16, "num_heads": 4, "num_layers": 2, "vocab_size": 256}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))


def classifier():
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=256, num_labels=3))


@pytest.mark.parametrize(
    ("make", "labels", "task"),
    [(encoder_decoder, [1] * 16, {"task": "seq_2_seq_lm"}), (classifier, 1, {"task": "seq_cls", "num_labels": 3})],
    ids=["seq_2_seq_lm", "seq_cls"],
)
def test_the_task_of_a_model_is_that_of_its_class(make, labels, task, tmp_path):
    check = MemoryCheck(write=lambda _: None)
    rows = [{**sample, "labels": labels} for sample in samples([32] * 8)]
    trained(make(), tmp_path, check, rows)
    assert task.items() <= check.request.items()
    assert check.rows[-1]["measured"] == {"resident": check.predicted["resident"]}


def test_a_training_that_no_request_describes_continues(tmp_path):
    model, lines = tiny(), []
    model.model.embed_tokens.requires_grad_(False)
    check = MemoryCheck(tmp_path / "memory.json", write=lines.append)
    trained(model, tmp_path, check)
    assert [line.partition(": ")[0] for line in lines] == ["Headroom"]
    assert "frozen without PEFT" in lines[0]
    assert not (tmp_path / "memory.json").exists()


def test_lengths_come_from_the_dataset_or_are_given(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2, report_to=[])
    training = run_request(tiny(), args, samples([8, 40, 16]), None)["training"]
    assert (training["sequence_length"], training["padding"]) == (40, True)
    training = run_request(tiny(), args, None, 24)["training"]
    assert (training["sequence_length"], training["padding"]) == (24, False)
    with pytest.raises(PlanError, match="sequence_length=") as error:
        run_request(tiny(), args, iter([]), None)
    assert [problem.loc for problem in error.value.problems] == ["training.sequence_length"]


def test_published_compares_the_record_of_a_gpu_and_what_stays_between_the_steps_of_a_cpu(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    record = {
        "format": 1,
        "date": "2026-11-27",
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "request": run_request(tiny(), args, None, 32),
        "predicted": {"resident": 1},
        "rows": [{"step": 2, "measured": {"resident": 1}}],
    }
    path = tmp_path / "memory.json"
    path.write_text(json.dumps(record))
    assert [*record_measurements(path)] == []
    (line,) = record_lines([path])
    assert "resident, step 2 on a CPU: 1 measured" in line
    figures = {"memory_allocated": 20_000_000, "max_memory_allocated": 40_000_000, "max_memory_reserved": 60_000_000}
    record["rows"][-1]["measured"] = figures
    jsonschema.validate(record, SCHEMA)
    path.write_text(json.dumps(record))
    lines = [*record_lines([path])]
    assert [name in line for name, line in zip(figures, lines, strict=True)] == [True] * 3
    assert [*record_measurements(path)][2].bytes == 60_000_000
    path.write_text("{}")
    with pytest.raises(PlanError, match="no record of MemoryCheck"):
        [*record_measurements(path)]


def test_the_check_imports_without_the_apps_dependencies():
    run = subprocess.run([sys.executable, "-c", LIST_FOREIGN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "False"), run.stderr
