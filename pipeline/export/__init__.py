"""Writes the finished learner as a folder for use elsewhere: for this library, for timm alone, or as ONNX."""
