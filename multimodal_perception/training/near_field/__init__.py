"""Training of the near-field network."""
