"""Models in other formats, compared with the original. May import models, data, zoo; nothing of training."""
