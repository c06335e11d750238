"""Measurements. What is measured beside mlx-jina gets the same settings of the BLAS as the command line."""

from mlx_jina import device

device.let_idle_threads_sleep()
