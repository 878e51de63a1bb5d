"""Models as networks of ONNX."""
