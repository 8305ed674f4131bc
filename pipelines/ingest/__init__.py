"""Ingest: a source of queries, documents and judgments becomes dense, sharded tables."""
