"""The paper's CIFAR-10 table and figures: which runs they need, one result file a run, pictures and pages."""
