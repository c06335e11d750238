"""Any checkpoint to an MLX folder: `python -m convert.to_mlx --help`."""

from mlx_jina import cli, convert_cli

if __name__ == "__main__":
    cli.main(convert_cli.to_mlx, "convert.to_mlx")
