"""What methods share whose update is a dense matrix, as LyCORIS has them."""
