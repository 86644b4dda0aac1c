import pytest
import torch

from validation.tracing.known_values import KnownValues
from validation.tracing.memory_tracker import EmulatedKernels

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def test_a_models_code_can_read_the_length_of_its_sequence():
    with EmulatedKernels(KnownValues(100)):
        length = torch.max(torch.arange(100, device="meta")) + 1
        assert bool(length > 99)
        assert not bool(length > 100)
        assert not bool(length < torch.max(torch.arange(100, device="meta")) + 1)
        assert length.item() == 100


def test_other_values_on_the_meta_device_stay_unknown():
    with EmulatedKernels(KnownValues(100)), pytest.raises(RuntimeError, match="meta"):
        torch.zeros(3, device="meta").max().item()
