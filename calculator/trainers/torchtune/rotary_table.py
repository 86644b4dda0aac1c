"""The table of torchtune's rotary embedding.

Source: torchtune/modules/position_embeddings.py, RotaryPositionalEmbeddings.rope_init; and, where the table has both
halves, torchtune/models/qwen2/_positional_embeddings.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.architecture.module import Buffer
from calculator.architecture.per_model import per_model

if TYPE_CHECKING:
    from calculator.architecture.model import Model

#: The buffer with the cosine and the sine of every position.
_TABLE = "layers.attn.pos_embeddings.cache"


@per_model
def with_rotary_table(model: Model) -> Model:
    """Return the model with torchtune's buffers: one table with all positions, and its frequencies."""
    if any(buffer.name == _TABLE for buffer in model.buffers):
        return model
    half = named(int(model.config["head_dim"]) // 2, "head_dim / 2")
    positions = named(int(model.config["max_position_embeddings"]), "max_seq_len")
    theta = Buffer(name="layers.attn.pos_embeddings.theta", shape=(half,), dtype="float32")
    width = 4 if model.model_type == "qwen2" else 2
    table = Buffer(name=_TABLE, shape=(positions, half, width), dtype="float32")
    return replace(model, buffers=(theta, table))
