"""Fusion of visible and thermal images."""
