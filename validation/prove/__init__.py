"""The lesson's claims, run on real modules: figures, bounds that they are held to, and how each claim ends."""
