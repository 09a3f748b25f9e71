"""Experiments 1-3: what they are, and all of them as one table."""

from .plan import EXPERIMENTS, MODELS, PRESETS, Experiment, Preset, Sets, make_sets

__all__ = ["EXPERIMENTS", "MODELS", "PRESETS", "Experiment", "Preset", "Sets", "make_sets"]
