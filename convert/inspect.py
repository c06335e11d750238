"""What is in a .gguf: `python -m convert.inspect --help`."""

from mlx_jina import cli, convert_cli

if __name__ == "__main__":
    cli.main(convert_cli.inspect, "convert.inspect")
