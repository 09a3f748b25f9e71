"""Modules: parameters, and calls to operators only."""
