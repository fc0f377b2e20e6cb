"""Lightning callbacks. Each computes nothing itself: it asks `codd_lightning.evaluation` for rows."""
