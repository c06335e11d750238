"""Notes in folders, found by words and by meaning: one SQLite file for each folder, kept in step with it."""
