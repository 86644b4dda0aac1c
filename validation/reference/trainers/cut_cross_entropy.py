"""Cut Cross-Entropy instead of a model's head and loss, patched in as axolotl's plugin does."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch

from calculator.common.errors import refusal

INSTALL = "pip install 'cut-cross-entropy @ git+https://github.com/axolotl-ai-cloud/ml-cross-entropy.git@5f0c7a7'"


def install(model_type: str) -> None:
    """Patch the family's class for the rest of the process.

    Raises:
        PlanError: if the package is not installed.
    """
    if find_spec("cut_cross_entropy") is None:
        raise refusal("training.cut_cross_entropy", f"the package is not installed: {INSTALL}", True)
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    with mock.patch("torch.compile", _uncompiled):
        patch: Any = import_module("cut_cross_entropy.transformers.patch")
        kernels: Any = import_module("cut_cross_entropy.cce_backward")
    kernels.is_triton_greater_or_equal_3_2_0 = lambda: True
    patch.cce_patch(model_type)


def _uncompiled(function: Any = None, **_: Any) -> Any:
    return (lambda given: given) if function is None else function
