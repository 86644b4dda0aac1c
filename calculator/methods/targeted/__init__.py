"""What methods share that adapt modules by name, as PEFT's tuners do."""
