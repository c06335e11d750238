"""Any checkpoint to one .gguf: `python -m convert.to_gguf --help`."""

from mlx_jina.cli import app, convert

if __name__ == "__main__":
    app.main(convert.to_gguf, "convert.to_gguf")
