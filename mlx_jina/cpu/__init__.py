"""What a CPU computes in another way than MLX does; a GPU never comes here."""
