"""Subcommands of `export`: one module per exported network."""
