"""The ranks that a plan tries."""

from calculator.methods.facts import CandidateSizes

RANKS = CandidateSizes(setting="r", usual=(16, 8, 4), smaller=(2, 1), larger=(64, 32))
