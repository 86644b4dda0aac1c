import pytest
import torch

from validation.tracing.known_values import Values
from validation.tracing.memory_tracker import Emulated

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def test_how_long_a_sequence_is_can_be_asked_of_its_positions():
    with Emulated(Values(100)):
        length = torch.max(torch.arange(100, device="meta")) + 1
        assert bool(length > 99)
        assert not bool(length > 100)
        assert not bool(length < torch.max(torch.arange(100, device="meta")) + 1)
        assert length.item() == 100


def test_other_numbers_of_the_meta_device_stay_unknown():
    with Emulated(Values(100)), pytest.raises(RuntimeError, match="meta"):
        torch.zeros(3, device="meta").max().item()
