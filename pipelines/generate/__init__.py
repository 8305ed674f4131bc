"""Queries that a language model writes for documents that no query of the data asks for."""
