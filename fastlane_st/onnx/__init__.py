"""The model as one ONNX graph: backbone, projection and router in a file that runs without torch."""
