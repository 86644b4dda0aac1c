"""The pinned version's `generate` needs what its passes need, and treats virtual tokens as the warnings describe.

If a warning's test fails, the libraries have fixed the fault.
"""

from contextlib import ExitStack
from unittest import mock

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from calculator.common.dtype import rounded
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_method, parse_model
from calculator.inference.passes import peaks
from calculator.inference.served_method import served
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.methods.prefix.facts import FACTS as PREFIX
from calculator.methods.prepared_model import PreparedModel
from calculator.methods.prompt.facts import FACTS as PROMPT_TUNING
from calculator.training_step.resident_state import ResidentState
from validation.reference.served_model import build_served_model
from validation.tracing.generation import Generation
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.step import no_garbage_collection

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

PROMPT, VIRTUAL, NEW = 7, 5, 4


def cached(config):
    """The number of positions in the first layer's cache when the last token is chosen."""
    llama = AutoConfig.for_model(
        "llama",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
    )
    model = AutoModelForCausalLM.from_config(llama)
    attention, seen = model.model.layers[0].self_attn, []
    attention.register_forward_hook(
        lambda *hook_args: seen.append(hook_args[2]["cache"].get_seq_length()), with_kwargs=True
    )
    model = (model if config is None else peft.get_peft_model(model, config)).eval()
    ids = torch.randint(0, 100, (2, PROMPT))
    # Random weights may choose the end-of-sequence token, so the number of new tokens is fixed.
    length = {"min_new_tokens": NEW, "max_new_tokens": NEW}
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **length)
    return seen[-1]


def test_a_plain_model_and_lora_cache_every_token_but_the_last():
    assert cached(None) == cached(peft.LoraConfig(task_type="CAUSAL_LM")) == PROMPT + NEW - 1


def test_generate_ignores_a_prefix():
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    assert cached(config) == PROMPT + NEW - 1
    assert "ignores" in PREFIX.generate_caveat


def test_generate_inserts_a_prompt_before_every_token():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    assert cached(config) == NEW * VIRTUAL + PROMPT + NEW - 1
    assert "before every token" in PROMPT_TUNING.generate_caveat


#: Checks of values, which the meta device does not have: nothing is padded, and no sequence ends early.
VALUE_CHECKS = {
    "transformers.masking_utils.fast_all": lambda _: True,
    "torch.Tensor.item": lambda _: False,
    "torch.Tensor.__bool__": lambda _: False,
}


@pytest.fixture
def without_values():
    """Patch the checks of values, so that `generate` runs for NEW tokens on the meta device."""
    left = iter([True] * NEW)
    unfinished = "transformers.generation.utils.GenerationMixin._has_unfinished_sequences"
    with ExitStack() as stack:
        stack.enter_context(emulate_cuda())
        for name, answer in VALUE_CHECKS.items():
            stack.enter_context(mock.patch(name, answer))
        stack.enter_context(mock.patch(unfinished, side_effect=lambda *_, **__: next(left, False)))
        yield


#: Bytes of the first and the padding token, which `generate` puts on the GPU.
SPECIAL_TOKENS = 2 * rounded(8)

#: Bytes of the rotary tables for the second sequence: 512 positions of 32 dimensions, in 16 bits.
TABLES = 2 * 512 * 32 * 2


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", ["full", "lora", "qlora", "adapter"])
def test_generate_needs_its_passes_bytes_and_indices_for_every_sequence(name):
    config = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    }
    reference, serving = parse_model({"config": config}), Serving(batch_size=2, context_length=512, max_new_tokens=NEW)
    plan = served(parse_method({"name": name}), serving)
    resident = ResidentState(PreparedModel(model_of(reference), plan, serving.training, Device()))
    estimated = max(peak.bytes for peak in peaks(resident, plan, serving))
    real = Generation(build_served_model(reference, plan, serving), plan, serving)
    with no_garbage_collection(), patched_model_code(), real.tracker.tracking():
        real.ledger.enter("prefill")
        mask = torch.ones_like(real.ids)
        real.model.generate(
            input_ids=real.ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    numbers = rounded(2 * 512 * 8)
    mask_positions_and_copy = 3 * numbers - rounded(512 * 8)
    assert real.peaks["prefill"] - estimated == mask_positions_and_copy + rounded(2 * 8) + TABLES + SPECIAL_TOKENS
