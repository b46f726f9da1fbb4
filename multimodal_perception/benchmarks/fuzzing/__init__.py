"""Mutated messages, files and frames for `bench fuzz`."""
