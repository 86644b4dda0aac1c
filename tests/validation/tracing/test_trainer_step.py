from contextlib import nullcontext

import pytest
import torch

from validation.reference.trainers.build import build_run
from validation.reference.trainers.meta_device import accelerate_on_meta
from validation.reference.trainers.recipe import parse_recipe
from validation.tracing.trainer_step import TrainerStep

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


def trained(device, folder, method, **training):
    """The traced step of the real Trainer on a device, with kernels that are the same on each."""
    common = {"sequence_length": 64, "micro_batch_size": 2, "dtype": "float32", "attention": "eager"}
    recipe = parse_recipe(
        {
            "model": {"config": CONFIG},
            "method": {"name": method},
            "training": {"trainer": "transformers", **common, "optimizer": "sgd", **training},
        }
    )
    with accelerate_on_meta() if device == "meta" else nullcontext():
        step = TrainerStep(build_run(recipe, folder, torch.device(device)))
        step.run()
    return step


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ("full", {}),
        ("full", {"gradient_accumulation_steps": 3}),
        ("lora", {"gradient_checkpointing": True}),
        ("full", {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}),
    ],
)
def test_the_trainer_on_a_real_cpu_allocates_what_it_allocates_on_meta(tmp_path, method, training):
    meta, cpu = (trained(device, str(tmp_path), method, **training) for device in ("meta", "cpu"))
    assert {p: peak.bytes for p, peak in meta.ledger.peaks.items()} == {
        p: peak.bytes for p, peak in cpu.ledger.peaks.items()
    }
    assert meta.static() == cpu.static()


def test_the_traced_ledger_begins_with_the_step(tmp_path):
    step = trained("meta", str(tmp_path), "full", optimizer="adamw_torch")
    before = [storage for storage in step.ledger.storages if storage.moment == "static"]
    states = [storage for storage in before if storage.component == "optimizer_states"]
    weights = [storage for storage in before if storage.component == "base_weights"]
    assert [phase for _, phase in step.ledger.phase_starts] == ["forward", "forward", "backward", "optimizer_step"]
    assert sum(storage.nbytes for storage in states) == 2 * sum(
        storage.nbytes for storage in weights if _trained(storage)
    )


def _trained(storage):
    return storage.name.endswith("weight")
