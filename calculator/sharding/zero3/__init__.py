"""DeepSpeed's ZeRO stage 3 on one GPU. Weights are partitioned, and gathered and released around each module."""
