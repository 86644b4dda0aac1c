"""PEFT's batches, sorted by length in buckets, have the published number of tokens."""

from validation.published.buckets import BATCHES, LONGEST, ROWS, TOKENS, lengths


def test_a_bucket_is_sorted_from_long_to_short():
    assert len(lengths()) == BATCHES
    assert lengths() == sorted(lengths(), reverse=True)
    assert lengths()[0] < LONGEST


def test_padded_batches_have_slightly_more_than_the_published_tokens():
    padded = sum(lengths()) / BATCHES
    assert 1 < padded / (TOKENS / ROWS) < 1.1
