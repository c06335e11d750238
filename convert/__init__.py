"""Programs that run from a checkout; installed, they are `mlx-jina convert`."""
