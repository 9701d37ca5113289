"""A trained network applied to images. May import exporters and what comes before; nothing of training."""
