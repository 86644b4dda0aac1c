"""The order in which modules are called: the calculator's marks, and hooks of the real model."""

import pytest
import torch

from calculator.common.errors import PlanError
from calculator.engine import module_calls
from calculator.engine.repetition import Repetition
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of
from calculator.estimation.image_requests import image_families
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES
from calculator.methods.prepared_model import PreparedModel
from calculator.sharding.zero3.refusals import FAMILIES as ORDERED
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.training_context import training_context
from validation.random_grid.random_configs import MIDDLING, random_config
from validation.reference.build import META, build_model
from validation.reference.images import known_batch
from validation.reference.optimizers import optimizers_on_meta
from validation.reference.refusals import positions_needed
from validation.tracing.host_values import HostValues
from validation.tracing.known_values import KnownValues
from validation.tracing.memory_tracker import EmulatedKernels
from validation.tracing.shims import emulate_cuda, patched_model_code

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

#: DeepSpeed puts no hooks on the modules inside of these (runtime/zero/leaf_module_config.py).
LEAVES = ("MixtralSparseMoeBlock", "Qwen2MoeSparseMoeBlock", "Qwen3MoeSparseMoeBlock")

IA3 = {"name": "ia3"}
ADAPTER = {"name": "adapter", "bottleneck_size": 2}
LORA = {"name": "lora", "r": 2, "target_modules": "all-linear", "lora_dropout": 0.1}


def requested(family, method, images=None):
    """A request of a random model of the family that the calculator does not refuse."""
    length = 4 if images is None else 2048
    training = {"micro_batch_size": 1, "sequence_length": length, "autocast": "bfloat16", "images": images}
    device = {"count": 2, "sharding": "zero3"}
    for seed in range(50):
        config = random_config(FAMILIES[family], seed, MIDDLING)
        body = {"model": {"config": config}, "method": method, "training": training, "device": device}
        try:
            request = parse_request(body)
            check(request, model_of(request.model))
        except PlanError:
            continue
        return request
    raise AssertionError(family)


def called(request):
    """Each call's beginning (+) and end (-), with the path of modules that have parameters of their own."""
    calls, hooks = [], []
    with emulate_cuda(before_2_14=False), optimizers_on_meta():
        reference = build_model(request, META)
        leaves = [f"{name}." for name, leaf in reference.model.named_modules() if type(leaf).__name__ in LEAVES]
        for name, module in reference.model.named_modules():
            if name.startswith((*leaves,)):
                continue
            has = any(True for _ in module.parameters(recurse=False))
            path = name.removeprefix("base_model.model.").replace(".default", "") if has else ""
            path = path.replace(".sublayer", "").replace("self_attn.adapter", "attention.adapter")
            hooks.append(module.register_forward_pre_hook(lambda *_, path=path: calls.append(f"+{path}")))
            hooks.append(module.register_forward_hook(lambda *_, path=path: calls.append(f"-{path}")))
        ids = torch.zeros((1, request.training.sequence_length), dtype=torch.long, device=META)
        batch, values = {}, KnownValues(positions_needed(request))
        if request.training.has_images:
            values = HostValues(unknown=0)
            batch = known_batch(values, request, reference.model.config, ids, None)
        with patched_model_code(), EmulatedKernels(values):
            reference.model(input_ids=ids, labels=ids, **batch)
    return calls


def marked(request):
    """Return the calls from the marks of a micro-batch in which every layer is interpreted."""
    model = model_of(request.model)
    prepared = PreparedModel(model, request.method, request.training, request.device, request.stack)
    context = training_context(prepared)
    count = len(context.layers)
    context.repetition = Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)
    micro_batch(context)
    calls, layer = [], ""
    for _, label in context.tape.marks:
        if label == "backward":
            break
        if label.startswith("layer "):
            layer = label.split()[1]
        for prefix, sign in ((module_calls.BEFORE_FORWARD, "+"), (module_calls.AFTER_FORWARD, "-")):
            if label.startswith(prefix):
                calls.append(sign + label.removeprefix(prefix).replace("*", layer))
    return calls


def is_same_call(real, modeled):
    """Whether two calls have the same kind and, if the real module has parameters, the same path."""
    return real[0] == modeled[0] and real[1:] in ("", modeled[1:])


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, {"name": "full"}) for family in sorted(ORDERED)),
        ("llama", LORA),
        ("phi3", LORA),
        ("llama", IA3),
        ("llama", ADAPTER),
    ],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_modules_are_called_in_the_order_of_the_real_model(family, method):
    request = requested(family, method)
    real, modeled = called(request), marked(request)
    assert [pair for pair in zip(real, modeled, strict=True) if not is_same_call(*pair)] == []


@pytest.mark.parametrize("family", sorted(ORDERED & {*image_families()}))
def test_modules_of_a_batch_with_images_are_called_in_the_order_of_the_real_model(family):
    request = requested(family, LORA, {"images_per_sequence": 1, "image_height": 60, "image_width": 80})
    real, modeled = called(request), marked(request)
    assert [pair for pair in zip(real, modeled, strict=True) if not is_same_call(*pair)] == []
