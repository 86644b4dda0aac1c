import pytest
import torch
from torch import nn

from validation.tracing.module_tracker import Places, plain

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("path", "root", "told"),
    [
        ("model.layers.0.mlp", "", "model.layers.0.mlp"),
        ("base_model.model.model.layers.0.q_proj.base_layer", "base_model.model", "model.layers.0.q_proj"),
        ("base_model.model.layers.0", "base_model", "model.layers.0"),
        ("base_model.model", "base_model.model", ""),
        ("prompt_encoder.default", "base_model", "prompt_encoder.default"),
        ("lm_head.original_module.weight", "", "lm_head.weight"),
        ("layers.0.attn.sublayer.c_attn", "", "layers.0.attn.c_attn"),
    ],
)
def test_a_path_is_told_as_it_was_before_a_method_wrapped_the_model(path, root, told):
    assert plain(path, root) == told


def test_the_backward_of_an_operation_is_traced_to_the_module_that_ran_it():
    model = nn.Sequential(nn.Linear(8, 8, device="meta"), nn.Tanh(), nn.Linear(8, 2, device="meta"))
    places, seen = Places(model, ""), []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if places.module is None:
                seen.append((func._schema.name, *places.undone()))
            else:
                places.made(func._schema.name)
            return func(*args, **(kwargs or {}))

    with places.followed(), Seen():
        model(torch.ones(4, 8, device="meta")).sum().backward()
    assert ("aten::tanh_backward", "1", "TanhBackward0") in seen
    assert ("aten::mm", "2", "AddmmBackward0") in seen
    assert ("aten::mm", "0", "AddmmBackward0") in seen
