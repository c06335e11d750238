"""Two checkpoints, the same texts: `python -m convert.compare --help`."""

from mlx_jina import cli, convert_cli

if __name__ == "__main__":
    cli.main(convert_cli.compare, "convert.compare")
