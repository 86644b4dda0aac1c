"""Where less may be required: where two sizes meet, and at the multiples that kernels align to."""

from calculator.limits.non_monotonic import ALL, following, likely, meetings, spread

KEPT = 4096 * 4096 * 2


class Sized:
    """Trials of tensors whose sizes are told; a request that asked for 100, with so many tokens beside."""

    asked, most = 100, 1000

    def __init__(self, *of, beside=0):
        self.of, self.beside = of, beside

    def sizes(self, value):
        return [], [-(-size(value) // 512) * 512 for size in self.of]


def test_a_growing_tensor_meets_one_that_stays():
    probes = Sized(lambda s: 8 * s * 4096 * 2, lambda _: KEPT)
    assert set(meetings(probes, 10, 4000, 1)) == {512}


def test_two_tensors_meet_where_one_grows_by_the_square():
    probes = Sized(lambda s: 32 * s * s * 2, lambda s: s * 32_000 * 4)
    assert set(meetings(probes, 10, 4000, 1)) == {2000}


def test_sizes_that_pass_each_other_between_two_values_do_not_meet():
    probes = Sized(lambda s: s * 3_000_000, lambda _: 100_000_000)
    assert set(meetings(probes, 1, 200, 1)) == set()


def test_plans_that_go_another_way_tell_nothing():
    class Changing(Sized):
        def sizes(self, value):
            return [], [512] * value

    assert set(meetings(Changing(), 10, 4000, 1)) == set()


def test_few_values_are_all_likely():
    assert likely(Sized(), 10, 11 + ALL) == [*range(11, 11 + ALL)]


def test_of_many_values_the_plans_own_comes_first_and_then_where_sizes_meet():
    values = likely(Sized(lambda s: 8 * s * 4096 * 2, lambda _: KEPT), 10, 4000)
    assert values[:2] == [100, 512]
    assert {2048, 1024, 64} <= set(values)
    assert all(10 < value < 4000 for value in values)


def test_lengths_are_aligned_with_and_without_what_stands_beside_them():
    values = following(Sized(beside=20), 1000, 2000)
    assert {1001, 1004, 1008, 1024} <= set(values)
    assert all(1000 < value < 2000 for value in values)


def test_a_spread_leaves_out_its_ends():
    assert spread(0, 7) == {1, 2, 3, 4, 5, 6}
    assert spread(3, 4) == set()
