import pytest
import torch
from torch import nn

from validation.reference.module_paths import unwrapped
from validation.tracing.module_tracker import ModuleTracker

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("path", "root", "expected"),
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
def test_an_unwrapped_path_is_the_one_before_the_method(path, root, expected):
    assert unwrapped(path, root) == expected


def test_a_backward_operation_has_the_module_of_its_forward():
    model = nn.Sequential(nn.Linear(8, 8, device="meta"), nn.Tanh(), nn.Linear(8, 2, device="meta"))
    modules, seen = ModuleTracker(model, ""), []

    class RecordModules(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if modules.forward_module is None:
                seen.append((func._schema.name, *modules.backward_module()))
            else:
                modules.record_node(func._schema.name)
            return func(*args, **(kwargs or {}))

    with modules.tracking(), RecordModules():
        model(torch.ones(4, 8, device="meta")).sum().backward()
    assert ("aten::tanh_backward", "1", "TanhBackward0") in seen
    assert ("aten::mm", "2", "AddmmBackward0") in seen
    assert ("aten::mm", "0", "AddmmBackward0") in seen
