"""Where a run is logged besides its folder: TensorBoard, Weights & Biases, MLflow."""
