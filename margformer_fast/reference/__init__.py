"""The truth, which every fast path is checked against: short eager PyTorch in float32 or float64."""
