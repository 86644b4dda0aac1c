"""From a request to its estimate."""
