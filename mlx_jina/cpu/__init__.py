"""Computations that a CPU does better in another way than MLX's; a GPU uses none of them."""
