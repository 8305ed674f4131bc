"""Batch stages on Ray Data and Ray Train, from a corpus to a released embedding model."""
