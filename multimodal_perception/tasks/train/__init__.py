"""Tasks of the command `train`."""
