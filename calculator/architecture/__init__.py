"""Models as their modules, read from a `config.json`."""
