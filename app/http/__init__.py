"""HTTP: middleware, request bodies, problem documents, content negotiation, the version."""
