"""The finished learner as a folder that leaves the repository: for this library, for timm alone, or as ONNX."""
