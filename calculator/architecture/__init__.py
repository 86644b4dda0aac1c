"""Models as trees of modules, built from a `config.json`."""
