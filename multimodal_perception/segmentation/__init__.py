"""Semantic segmentation of visible images, thermal images, or both."""
