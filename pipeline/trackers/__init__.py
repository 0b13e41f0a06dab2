"""Sends the finished run to the trackers that people already use: MLflow, TensorBoard, Weights & Biases."""
