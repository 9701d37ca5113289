"""The paper's table and figures: runs, a result file for each, pages. May import all but cli."""
