"""How well a model predicts, and what else could explain it. Imports train and all before it."""
