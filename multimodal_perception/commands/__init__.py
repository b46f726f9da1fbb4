"""One module a subcommand of `multimodal-perception`."""
