"""Dialects: one file for each API that clients speak."""
