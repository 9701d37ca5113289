"""Weights of other projects under our names: one file a source, and what they have in common."""
