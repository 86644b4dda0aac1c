"""DeepSpeed's ZeRO-3 on one GPU: partitioned weights, gathered and released around each module."""
