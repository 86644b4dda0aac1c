"""HTTP plumbing: middleware, problem documents, request bodies, versions."""
