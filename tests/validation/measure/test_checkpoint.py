"""Checkpoints of zeros, and the models that are loaded from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from calculator.estimation.request import parse_request  # noqa: E402
from validation.measure.checkpoint import from_checkpoint, write_zeros  # noqa: E402
from validation.measure.step_cases import TINY  # noqa: E402
from validation.reference.build import build_model  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


def test_a_file_of_zeros_is_read_as_tensors_of_their_shapes_and_dtypes(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, 5, dtype=torch.bfloat16), "b": torch.ones(7), "c": torch.ones(2, dtype=torch.int64)}
    write_zeros(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    read = safetensors.load_file(tmp_path / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in read.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()
    }
    assert not any(tensor.any() for tensor in read.values())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_loaded_model_is_the_one_that_is_built() -> None:
    body = {"model": {"config": TINY}, "method": {"name": "lora"}, "training": {"attention": "eager"}}
    request = parse_request(body)
    loaded, built = from_checkpoint(request, CPU), build_model(request)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in loaded.model.named_parameters()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in built.model.named_parameters()
    }
    assert loaded.trainable().keys() == built.trainable().keys()
    assert loaded.model.config._attn_implementation == "eager"
