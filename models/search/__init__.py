"""Exact top-k search, merging of partial results, and index files."""
