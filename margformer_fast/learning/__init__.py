"""Pre-training, fine-tuning, checkpoints."""
