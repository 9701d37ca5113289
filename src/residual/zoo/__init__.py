"""Models on disk: model folders, pretrained weights, checkpoints of other projects."""
