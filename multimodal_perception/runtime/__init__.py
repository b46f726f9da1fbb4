"""Inference of trained networks from named input arrays, with a choice of engines."""
