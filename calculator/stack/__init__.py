"""The known releases of the libraries, and the differences of older releases."""
