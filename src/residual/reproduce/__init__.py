"""The paper's CIFAR-10 table and figures: runs, a result file for each, pages. May import all but cli."""
