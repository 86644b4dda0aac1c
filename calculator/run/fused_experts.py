"""The weights of experts that transformers fuses while it reads a model: its files have those of each expert.

Source: transformers 5.24, conversion_mapping.py and core_model_loading.py (WeightConverter).
"""

from __future__ import annotations

#: The weights of all experts together, and the models whose files have them so.
FUSED = (".gate_up_proj", ".up_proj", ".down_proj")
FUSED_IN_FILES = frozenset({"gemma4_text", "gpt_oss", "granitemoe", "granitemoehybrid", "llama4_text"})

#: What the host has of them.
TWICE = "Weights of experts are fused into new tensors."
AT_MOST = (
    "Weights of experts are cast one by one and fused into new tensors; how many wait for that depends on threads, so"
    " that all are counted twice."
)


def fusing_on_gpu(size: int) -> str:
    """What a load may need besides its figure where weights are read onto the GPU and fused there."""
    return (
        "transformers copies the weights of each expert to the GPU and fuses them there. How many wait for that depends"
        f" on threads: loading may need up to {size:,} bytes more than its figure."
    )


def is_fused(name: str, model_type: str) -> bool:
    """Whether transformers fuses a weight from those of each expert."""
    return ".experts." in name and name.endswith(FUSED) and model_type not in FUSED_IN_FILES
