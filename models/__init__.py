"""Encoders, tokenization, pooling, search and losses in plain PyTorch, Hugging Face and faiss; never Ray."""
