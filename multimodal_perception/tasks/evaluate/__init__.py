"""Tasks of the command `evaluate`."""
