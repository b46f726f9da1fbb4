"""Robustness of the pipeline: corruptions and attacks, their figures, and the page of a report."""
