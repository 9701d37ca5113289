"""From a recipe to a finished run: engine, loop, run folders, jobs. Imports neither bench, reproduce nor cli."""
