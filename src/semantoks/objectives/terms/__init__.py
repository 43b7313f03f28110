"""What a loss is made of: terms and monitors as pure functions. Imports parallel only."""
