"""What a network makes of a data set. Imports nothing of training."""
