"""Operators: one file each, from schema to public function."""
