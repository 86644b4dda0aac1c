"""The peaks of a step under DeepSpeed's ZeRO."""
