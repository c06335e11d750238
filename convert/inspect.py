"""What is in a .gguf: `python -m convert.inspect --help`."""

from mlx_jina.cli import app, convert

if __name__ == "__main__":
    app.main(convert.inspect, "convert.inspect")
