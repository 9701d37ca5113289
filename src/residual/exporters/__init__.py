"""A network in other forms: INT8 through ONNX. Imports models, nothing of training."""
