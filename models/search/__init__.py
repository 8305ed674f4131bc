"""Exact top-k search, merging of partial results, codes whose candidates are rescored, and index files."""
