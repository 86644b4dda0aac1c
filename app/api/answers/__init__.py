"""Response models of the JSON API, one module an endpoint."""
