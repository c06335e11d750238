"""`python -m mlx_jina` is `mlx-jina`."""

from mlx_jina.cli.app import main

main(name="python -m mlx_jina")
