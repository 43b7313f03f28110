"""How large a score is and how certain: pure functions. Imports errors only."""
