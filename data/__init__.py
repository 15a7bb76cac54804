"""Files that travel with scorekit: the demo set and the small checkpoints."""
