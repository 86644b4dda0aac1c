"""Response models of the JSON API: one module per endpoint, named as the endpoint's module in `app.api`."""
