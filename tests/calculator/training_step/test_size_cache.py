"""The order in which the traces of a cache by sizes are tried."""

from calculator.inputs.training import Training
from calculator.methods.full.method import Full
from calculator.training_step.size_cache import SizeCache


class OfRemainder:
    """A trace that holds for even lengths (0) or for odd ones (1)."""

    def __init__(self, remainder, tried):
        self.remainder, self.tried = remainder, tried

    def with_sizes(self, sizes):
        self.tried.append(self.remainder)
        lengths = [size for size in sizes if size >= 64]
        return self.remainder if lengths[0] % 2 == self.remainder else None


def test_the_trace_that_gave_the_last_result_is_tried_first():
    cache, tried = SizeCache(traces_first=True), []
    remainders = iter((0, 1))

    def traced(*_):
        return OfRemainder(next(remainders), tried)

    def of(length):
        tried.clear()
        training = Training(sequence_length=length)
        found = cache.for_settings(training, Full(), lambda: None, traced)
        return found, [*tried]

    assert of(64) == (0, [0])
    assert of(65) == (1, [0, 1])
    assert of(67) == (1, [1])
    assert of(66) == (0, [1, 0])
    assert of(68) == (0, [0])
