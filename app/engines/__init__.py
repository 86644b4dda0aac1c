"""The engines that answer a single estimate: the calculator, or a trace in a process of its own."""
