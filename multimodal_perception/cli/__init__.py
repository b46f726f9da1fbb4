"""The command line: a module for each subcommand of `multimodal-perception`."""
