"""The lesson's claims, tested on real modules: figures, the bounds that they must meet, and each claim's verdict."""
