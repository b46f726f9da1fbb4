"""`evaluate`: a module for each subcommand that compares results with labelled data."""
