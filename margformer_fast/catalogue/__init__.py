"""Trained models over whole catalogues: what goes in, what comes out, and work that survives being killed."""
