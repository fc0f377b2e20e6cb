"""The `codd` command."""
