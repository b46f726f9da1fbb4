"""How the networks are trained: one file a network."""
