"""The parameter groups of LoRA+ (Hayou et al. 2024).

Source: peft/optimizers/loraplus.py, create_loraplus_optimizer; transformers/trainer_pt_utils.py, get_parameter_names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.resident.module_spec import owner_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.model import Model
    from calculator.resident.tensor import ResidentTensor


def groups(model: Model, trained: Iterable[ResidentTensor]) -> list[tuple[ResidentTensor, ...]]:
    """Return the parameter groups.

    They are A with other matrices, the updates of embeddings, B with other vectors, and parameters without weight
    decay.
    """
    layer_norms = {path for path, module in model.paths if module.kind == "norm" and len(module.parameters) > 1}
    tensors_by_group: dict[str, list[ResidentTensor]] = {
        name: [] for name in ("a", "embedding", "b", "b_without_decay")
    }
    for tensor in trained:
        tensors_by_group[_group(tensor, layer_norms)].append(tensor)
    return [tuple(group) for group in tensors_by_group.values() if group]


def _group(tensor: ResidentTensor, layer_norms: set[str]) -> str:
    if ".lora_embedding_" in tensor.name:
        return "embedding"
    if "lora_B" not in tensor.name and len(tensor.shape) != 1:
        return "a"
    decays = "bias" not in tensor.name and owner_of(tensor.name) not in layer_norms
    return "b" if decays else "b_without_decay"
