"""Models of any framework -> an ONNX file that the builder can trust; the only door to torch and TensorFlow."""
