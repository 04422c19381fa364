"""Published ONNX depth networks as model bundles: what they take and give, and one graph around them."""
