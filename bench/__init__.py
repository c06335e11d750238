"""Measurements. What is measured beside mlx-jina gets the same settings of the BLAS as the command line."""

from mlx_jina.cpu import blas

blas.let_idle_threads_sleep()
