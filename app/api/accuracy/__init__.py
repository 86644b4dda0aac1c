"""How far estimates are from published and measured figures."""
