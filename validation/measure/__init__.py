"""Real modules on a real device: what their memory is, held against the calculator's rows."""
