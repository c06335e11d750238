"""A text on its way to the model: prompt, tokens, chunks."""
