"""From a prepared recipe to a finished run: steps, checkpoints, run folders, several runs at once."""
