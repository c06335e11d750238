"""Two checkpoints, the same texts: `python -m convert.compare --help`."""

from mlx_jina.cli import app, convert

if __name__ == "__main__":
    app.main(convert.compare, "convert.compare")
