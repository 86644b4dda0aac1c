"""The parameters that one optimizer updates, if another optimizer updates the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.resident.optim_args import options
from calculator.resident.projection import Projection
from calculator.trainers.resident import embeddings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.inputs.training import Training
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.tensor import ResidentTensor


def with_targets(
    optimizer: Optimizer, model: Model, tensors: Iterable[ResidentTensor], training: Training
) -> Optimizer:
    """Return the optimizer of a run, with the names of the parameters that it updates itself."""
    if optimizer.others is None:
        return optimizer
    if optimizer.projects:
        trained = {tensor.name for tensor in tensors if tensor.trained}
        projecting = with_projection(optimizer, model, training)
        return replace(projecting, targets=projecting.targets & trained)
    return replace(optimizer, targets=frozenset(_hidden_matrices(model, tensors)))


def with_projection(optimizer: Optimizer, model: Model, training: Training) -> Optimizer:
    """Return the optimizer with its projection, and with the trained weights whose gradients it projects."""
    if not optimizer.projects:
        return optimizer
    targets = frozenset(f"{path}.weight" for path in projected_modules(model, training))
    return replace(optimizer, targets=targets, projection=projection_of(optimizer, training))


def _hidden_matrices(model: Model, tensors: Iterable[ResidentTensor]) -> Iterator[str]:
    """Yield the trained matrices, except those of embeddings and of a language model's output head with its adapters.

    The head of a classifier counts as a hidden matrix. Source: the docs of torch.optim.Muon.
    """
    tensors = tuple(tensors)
    outer, head = embeddings(model, tensors), None if model.task.trains_head else model.head
    for tensor in tensors:
        is_matrix = tensor.trained and len(tensor.shape) == 2
        if is_matrix and tensor.name not in outer and not tensor.name.startswith(f"{head}."):
            yield tensor.name


def projected_modules(model: Model, training: Training) -> Iterator[str]:
    """Yield the paths of the linear layers whose gradients are projected.

    Source: transformers/trainer_utils.py, check_target_module_exists, for a list of names.
    """
    named = training.optim_target_modules or ()
    for path, module in model.paths:
        if module.kind == "linear" and (named == "all-linear" or any(name in path for name in named)):
            yield path


def projection_of(optimizer: Optimizer, training: Training) -> Projection:
    """Return the projection of a run. The defaults are those of the Trainer."""
    given = options(training.optim_args)
    proj_type: Any = given.get("proj_type", "std")
    return Projection(
        rank=int(given.get("rank", 128)),
        proj_type=proj_type,
        decomposes=given.get("proj", optimizer.projects) == "svd",
        by_channel=given.get("scale_type", "channel") == "channel",
    )
