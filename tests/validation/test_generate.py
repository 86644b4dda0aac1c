"""What the warnings say of `generate` in the pinned stack, seen on real models: when one fails, the stack is mended."""

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from calculator.serving.remarks import IGNORED

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

PROMPT, VIRTUAL, NEW = 7, 5, 4


def cached(config):
    """How many positions the first layer's cache has seen when the last token is chosen."""
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
    attention.register_forward_hook(lambda *told: seen.append(told[2]["cache"].get_seq_length()), with_kwargs=True)
    model = (model if config is None else peft.get_peft_model(model, config)).eval()
    ids = torch.randint(0, 100, (2, PROMPT))
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    return seen[-1]


def test_a_plain_model_and_lora_cache_every_token_but_the_last():
    assert cached(None) == cached(peft.LoraConfig(task_type="CAUSAL_LM")) == PROMPT + NEW - 1


def test_generate_ignores_a_prefix():
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    assert cached(config) == PROMPT + NEW - 1
    assert "ignores" in IGNORED["prefix"]


def test_generate_puts_a_prompt_before_every_token():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    assert cached(config) == NEW * VIRTUAL + PROMPT + NEW - 1
    assert "before every token" in IGNORED["prompt"]
