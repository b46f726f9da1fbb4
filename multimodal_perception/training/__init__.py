"""Training of the networks: the common loop, one package per network, and recipes."""
