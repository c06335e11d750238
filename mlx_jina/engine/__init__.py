"""How texts run through a model: threads, batches, late chunking, several machines."""
