"""What DeepSpeed's ZeRO keeps and allocates on one GPU."""
