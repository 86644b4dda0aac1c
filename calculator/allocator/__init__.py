"""PyTorch's caching allocator: a replay, and a rule for reserved memory.

Terms:
    Segment: Memory that the allocator requests from the device (cudaMalloc).
    Block: A part of a segment. It belongs to a tensor, or is free and cached.
    Pool: The segments and blocks of one stream, for small or for large requests.
    Place: The addresses of the block that a row (see `calculator.engine`) is allocated in.
    Placed row: A row whose place is simulated, because it may affect later segments.
    Transient: A row that is freed soon after its allocation and does not affect later segments.
    Steady state: The steps after which no further step reserves more memory.
"""
