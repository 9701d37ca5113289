"""What decides what a run computes. Imports errors, runtime and the names of models; no torch."""
