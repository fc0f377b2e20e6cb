"""Config groups, and the typed schema behind each of them."""
