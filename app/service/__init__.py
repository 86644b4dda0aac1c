"""The service around the application: settings, metrics, access log, cache, bounds, processes of long requests."""
