"""The truth: short eager PyTorch in float32 or float64, with no dispatch. Every fast path is checked against it."""
