"""The paper's CIFAR-10 table and figures, and its claim on Imagenette: runs, a result file for each, pages. May import all but cli."""
