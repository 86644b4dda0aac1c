"""Peaks that others measured and published, as requests of the contract, and what the calculator says of them."""
