"""Everything about files, nothing about arithmetic."""
