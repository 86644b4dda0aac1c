"""The parts that methods share which adapt modules by name, as PEFT's tuners do."""
