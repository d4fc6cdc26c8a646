"""The commands of the command line: options in, results printed. No logic."""
