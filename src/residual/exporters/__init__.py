"""Models in other formats: INT8 through ONNX. May import models, data and zoo; nothing of training."""
