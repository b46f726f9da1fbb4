"""Training of the image detector."""
