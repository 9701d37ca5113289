"""Data sets of small images in memory, and the batches drawn from them."""
