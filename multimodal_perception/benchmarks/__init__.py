"""Benchmarks: one module per subcommand of `multimodal-perception bench`."""
