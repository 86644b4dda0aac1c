"""The releases of the libraries that are known, and what older ones do differently."""
