"""Any checkpoint to one .gguf: `python -m convert.to_gguf --help`."""

from mlx_jina import cli, convert_cli

if __name__ == "__main__":
    cli.main(convert_cli.to_gguf, "convert.to_gguf")
