"""The finished run for the trackers that people already use: MLflow, TensorBoard, Weights & Biases."""
