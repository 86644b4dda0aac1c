"""The module that computes virtual tokens (peft/peft_model.py, PeftModel.prompt_encoder), and calls inside it."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from calculator.engine import products
from calculator.engine.module_calls import enter, external, leave

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from calculator.engine.tape import Tensor

#: The path of the module.
ENCODER = "prompt_encoder"


def called(indices: Tensor, table: Tensor, row: str) -> Tensor:
    """Begin the module's call with the indices of the virtual tokens. Return the embeddings that it looks up.

    Before the call, PEFT's model reads the device of the table (PeftModel.get_prompt).
    """
    external("peft model", table)
    path = f"{ENCODER}.embedding"
    x = enter(path, enter(ENCODER, indices))
    return leave(path, products.embedding(x, table, table.shape[1], row))


def sequential(
    name: str,
    weights: Mapping[str, Tensor],
    x: Tensor,
    rows: Sequence[str],
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """Call a torch.nn.Sequential of linear layers with an activation between any two.

    `weights` are the parameters of the module that computes virtual tokens, by their names in it. `rows` are the names
    of the layers' outputs.
    """
    path = f"{ENCODER}.{name}"
    x = enter(path, x)
    for number, row in zip(count(step=2), rows, strict=False):
        if number:
            before = f"{path}.{number - 1}"
            x = leave(before, activation(enter(before, x)))
        weight, bias, layer = weights[f"{name}.{number}.weight"], weights[f"{name}.{number}.bias"], f"{path}.{number}"
        x = leave(layer, products.matmul(enter(layer, x), weight, bias, weight.shape[0], row))
    return leave(path, x)
