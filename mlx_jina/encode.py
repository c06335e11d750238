"""`python -m mlx_jina.encode` is `mlx-jina encode`."""

from mlx_jina.cli.app import encode, main

if __name__ == "__main__":
    main(command=encode, name="python -m mlx_jina.encode")
