"""Models on disk: folders, pretrained weights, imports. May import errors, runtime, models, recipes, data."""
