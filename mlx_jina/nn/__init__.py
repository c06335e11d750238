"""Building blocks of the models, in the papers' order."""
