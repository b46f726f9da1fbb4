"""The `evaluate` subcommands, one module each: metrics on labelled or simulated data."""
