"""FSDP2 as accelerate and transformers set it up: what one rank keeps, gathers and reduces."""
