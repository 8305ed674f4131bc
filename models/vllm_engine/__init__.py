"""vLLM as an engine: embeddings and scores of the same tokens, computed by vLLM instead of our own forward pass."""
