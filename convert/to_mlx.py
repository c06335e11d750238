"""Any checkpoint to an MLX folder: `python -m convert.to_mlx --help`."""

from mlx_jina.cli import app, convert

if __name__ == "__main__":
    app.main(convert.to_mlx, "convert.to_mlx")
