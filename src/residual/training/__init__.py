"""From a recipe to a finished run: engine, loop, checkpoints, run folders, several runs at once."""
