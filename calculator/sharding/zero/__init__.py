"""DeepSpeed's ZeRO stages 1 and 2: what one GPU keeps and allocates."""
