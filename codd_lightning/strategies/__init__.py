"""How Lightning spreads a run over processes."""
