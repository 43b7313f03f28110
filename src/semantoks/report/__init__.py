"""What a reader sees: page, terminal, verdicts. Imports assess and all before it."""
