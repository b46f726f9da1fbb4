"""Subcommands of `train`: one module per network, `train label-images` and `train recipe`."""
