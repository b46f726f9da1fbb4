"""Tasks of the command `export`."""
