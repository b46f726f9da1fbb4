"""Metrics that compare results with ground truth."""
