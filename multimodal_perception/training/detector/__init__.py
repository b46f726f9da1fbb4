"""Training of the fusion detector."""
