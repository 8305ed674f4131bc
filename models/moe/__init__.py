"""Mixtures of experts in the feed-forward blocks of encoders and decoders, upcycled from dense weights."""
