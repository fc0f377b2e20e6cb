"""The page that shows what a circuit does to one response, step by step."""
