"""Encode: a model embeds every document and query of an ingest artifact."""
