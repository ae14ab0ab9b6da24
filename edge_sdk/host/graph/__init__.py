"""ONNX to ONNX: read and check, fold, insert Q/DQ by TensorRT's rules. The only door to the onnx package."""
