"""Memory figures that others measured and published, as estimate requests, and the calculator's predictions."""
