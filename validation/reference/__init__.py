"""Models, methods and optimizers of PyTorch, transformers, PEFT and bitsandbytes, built for a request."""
