"""Measurements. All peers run with the BLAS settings of mlx-jina's command line."""

from mlx_jina.cpu import blas

blas.let_idle_threads_sleep()
