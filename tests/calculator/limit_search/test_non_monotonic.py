"""Values at which less memory may be required: two tensors have equal sizes, or kernels align to the value."""

from calculator.limit_search.non_monotonic import ALL, equal_sizes, following, likely_values

KEPT = 4096 * 4096 * 2


class Sized:
    """Probes of tensors with given sizes, of a request with the value 100 and `offset` further tokens."""

    requested, budget = 100, 1000

    def __init__(self, *of, offset=0):
        self.of, self.offset = of, offset

    def sizes(self, value):
        return [], [-(-size(value) // 512) * 512 for size in self.of]


def test_a_growing_tensor_reaches_the_size_of_a_constant_one():
    probes = Sized(lambda s: 8 * s * 4096 * 2, lambda _: KEPT)
    assert set(equal_sizes(probes, 10, 4000, 1)) == {512}


def test_a_tensor_that_grows_by_the_square_reaches_the_size_of_a_linear_one():
    probes = Sized(lambda s: 32 * s * s * 2, lambda s: s * 32_000 * 4)
    assert set(equal_sizes(probes, 10, 4000, 1)) == {2000}


def test_sizes_that_cross_between_two_values_are_not_equal():
    probes = Sized(lambda s: s * 3_000_000, lambda _: 100_000_000)
    assert set(equal_sizes(probes, 1, 200, 1)) == set()


def test_steps_with_different_operations_have_no_equal_sizes():
    class Changing(Sized):
        def sizes(self, value):
            return [], [512] * value

    assert set(equal_sizes(Changing(), 10, 4000, 1)) == set()


def test_few_values_are_all_candidates():
    assert likely_values(Sized(), 10, 11 + ALL) == [*range(11, 11 + ALL)]


def test_of_many_values_the_requests_own_is_first_and_then_equal_sizes():
    values = likely_values(Sized(lambda s: 8 * s * 4096 * 2, lambda _: KEPT), 10, 4000)
    assert values[:2] == [100, 512]
    assert {2048, 1024, 64} <= set(values)
    assert all(10 < value < 4000 for value in values)


def test_lengths_are_aligned_with_and_without_virtual_tokens():
    values = following(Sized(offset=20), 1000, 2000)
    assert {1001, 1004, 1008, 1024} <= set(values)
    assert all(1000 < value < 2000 for value in values)
