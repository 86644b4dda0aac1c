"""The sentences of an answer about reserved memory."""

from __future__ import annotations

#: The error of the rule against the replay: the median of 1,000 random requests, and the range without 1 % at either
#: end. Source: docs/decisions/0004-reserved-memory.md.
RULE_ACCURACY = "7.4 % above the replay in the median of 1,000 random runs, 1 % below to 52 % above in 98 of 100"
#: The error of the rule under FSDP2, over 242 random requests. Source: docs/decisions/0015-streams.md.
SHARDED_RULE_ACCURACY = "7 % above the replay in the median of 242 random runs, 19 % below to 44 % above in 98 of 100"

#: The error of the rule under ZeRO, over 300 random requests. Source: docs/decisions/0015-streams.md.
ZERO_RULE_ACCURACY = "4 % above the replay in the median of 300 random runs, 19 % below to 48 % above in 98 of 100"

RULE = (
    "Reserved memory follows a rule: for each size, as many blocks as tensors of it are alive at once, and the"
    f" largest block twice if layers leave as much alive. It is {RULE_ACCURACY}. Set reserved to replay for a replay of"
    " the allocator."
)
RULE_OF_ZERO = (
    "Reserved memory follows a rule: for each size, as many blocks as tensors of it are alive at once. It is"
    f" {ZERO_RULE_ACCURACY}. Runs under ZeRO are replayed (reserved: replay), but not those of stage 3 with"
    " offload, those with generation, with lengths that vary, or with a cache that is emptied."
)
RULE_OF_TRACES = (
    "Reserved memory follows a rule: for each size, as many blocks as tensors of it are alive at once, and the largest"
    " block twice if the forward pass leaves as much alive. Set reserved to replay for a replay of the allocator."
)
SHARDED_RULE = (
    "Reserved memory follows a rule: for each size, as many blocks as tensors of it are alive at once, and the largest"
    f" block twice if layers leave as much alive. It is {SHARDED_RULE_ACCURACY}. Set reserved to replay for a replay of"
    " the allocator, in which each stream has blocks of its own; the rule counts them together."
)
REPLAY = (
    "Reserved memory is from a replay of PyTorch's caching allocator: the model is loaded, then steps of one batch"
    " shape run until they reserve nothing more. Batches of changing lengths can need more."
)
REPLAY_OF_STREAMS = (
    "Reserved memory is from a replay of PyTorch's caching allocator: the model is sharded, then steps of one batch"
    " shape run until they reserve nothing more. Each stream has blocks of its own: those of gathered shards, those of"
    " reduced gradients, and all others. Batches of changing lengths can need more."
)
REPLAY_OF_ZERO = (
    f"{REPLAY_OF_STREAMS} A block that DeepSpeed marks with record_stream is free when its tensor is: how long the"
    " other stream still uses it depends on time."
)
