"""From a recipe to a finished run: engine, loop, run folders, jobs. Never imports bench, reproduce or cli."""
