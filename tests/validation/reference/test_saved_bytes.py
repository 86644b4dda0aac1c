"""`saved_bytes` equals the size of the checkpoint that PEFT or transformers writes."""

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.tiny_models import GPT2, LLAMA
from validation.reference.build import build_model

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

TIED = {**LLAMA, "tie_word_embeddings": True}
GPTJ = {
    "model_type": "gptj",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "rotary_dim": 8,
    "vocab_size": 300,
}


def written(request):
    """The bytes of the tensors that save_pretrained writes; tensors with a shared storage are written once."""
    model = build_model(request, torch.device("cpu")).model
    saved = (
        get_peft_model_state_dict(model)
        if isinstance(model, PeftModel)
        else {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    )
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(t): t for t in saved.values()}.values())


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (LLAMA, {"name": "full"}),
        (TIED, {"name": "full"}),
        (LLAMA, {"name": "lora", "target_modules": "all-linear"}),
        (LLAMA, {"name": "lora", "use_dora": True}),
        (LLAMA, {"name": "lora", "modules_to_save": ["lm_head"]}),
        (GPT2, {"name": "lora", "bias": "all"}),
        (GPT2, {"name": "lora", "bias": "lora_only"}),
        (LLAMA, {"name": "lora", "target_modules": ["q_proj", "lm_head"]}),
        (LLAMA, {"name": "lora", "target_modules": ["q_proj", "embed_tokens"]}),
        (TIED, {"name": "lora", "target_modules": ["embed_tokens"]}),
        (TIED, {"name": "lora", "target_modules": ["lm_head"]}),
        (GPTJ, {"name": "lora", "target_modules": ["lm_head"]}),
        (LLAMA, {"name": "qlora", "target_modules": "all-linear"}),
        (LLAMA, {"name": "adapter", "bottleneck_size": 8}),
        (LLAMA, {"name": "prefix", "num_virtual_tokens": 5}),
        (LLAMA, {"name": "prefix", "num_virtual_tokens": 5, "prefix_projection": True}),
        (LLAMA, {"name": "prompt", "num_virtual_tokens": 5}),
        (LLAMA, {"name": "ia3"}),
        (GPT2, {"name": "ia3"}),
        (LLAMA, {"name": "ia3", "target_modules": ["q_proj", "lm_head"]}),
        (LLAMA, {"name": "ln_tuning"}),
        (GPT2, {"name": "ln_tuning"}),
        (LLAMA, {"name": "ln_tuning", "target_modules": ["norm", "lm_head"]}),
        (TIED, {"name": "ln_tuning", "target_modules": ["embed_tokens"], "modules_to_save": ["norm"]}),
        (LLAMA, {"name": "vblora", "vector_length": 8, "num_vectors": 10}),
        (LLAMA, {"name": "pvera", "r": 4}),
        (LLAMA, {"name": "tinylora", "weight_tying": 1}),
        (LLAMA, {"name": "glora", "r": 2}),
        (LLAMA, {"name": "psoft", "r": 4}),
        (LLAMA, {"name": "c3a", "block_size": 8}),
        (LLAMA, {"name": "shira", "r": 2}),
        (LLAMA, {"name": "boft"}),
        (LLAMA, {"name": "unilora", "r": 4}),
        (LLAMA, {"name": "lily", "r": 4, "stride_A": 2, "target_modules": ["q_proj", "gate_proj"]}),
        (LLAMA, {"name": "osf", "effective_rank": 0.5}),
        (LLAMA, {"name": "adamss", "r": 8}),
        (LLAMA, {"name": "xlora"}),
        (LLAMA, {"name": "xlora", "layerwise_scalings": True, "xlora_depth": 3, "xlora_size": 16}),
        (LLAMA, {"name": "adaption_prompt", "adapter_layers": 1}),
        (LLAMA, {"name": "peanut", "r": 4, "depth": 1}),
        (LLAMA, {"name": "lora", "r": 4, "init_lora_weights": "mica"}),
        (LLAMA, {"name": "pvera", "r": 4, "save_projection": False}),
    ],
    ids=str,
)
def test_the_saved_bytes_are_those_of_the_written_tensors(config, method):
    request = parse_request({"model": {"config": config}, "method": method, "training": {"sequence_length": 32}})
    assert estimate(request).saved_bytes == written(request)


def test_added_parameters_in_the_models_dtype_are_written_in_it():
    training = {"sequence_length": 32, "adapter_dtype": "model"}
    request = parse_request({"model": {"config": LLAMA}, "method": {"name": "lora"}, "training": training})
    assert (
        estimate(request).saved_bytes
        == written(request)
        == estimate(request).parameters.trainable * torch.bfloat16.itemsize
    )
