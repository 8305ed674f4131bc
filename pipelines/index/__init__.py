"""Index: the faiss index and the document texts that a release serves."""
