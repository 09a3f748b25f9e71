"""Stamps, catalogues, survey stores, and the populations and splits of the three experiments."""
