"""Everything that is asked of models on one store: scores, controls, other explanations."""
