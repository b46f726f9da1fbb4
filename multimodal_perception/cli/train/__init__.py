"""Subcommands of `train`: one module per network, `train samples` and `train recipe`."""
