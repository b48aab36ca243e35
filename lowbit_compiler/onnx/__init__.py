"""The ONNX exit: the same passes up to the waist, then torch's ONNX exporter with translations of our ops."""
