"""How figures, labels, charts and formulas appear."""
