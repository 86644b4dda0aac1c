"""The numbers of virtual tokens that a plan tries, PEFT's default first."""

from calculator.methods.facts import CandidateSizes

TOKENS = CandidateSizes(setting="num_virtual_tokens", usual=(20,), smaller=(10, 5, 2, 1))
