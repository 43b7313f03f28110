"""Which model predicts better: folds, scores, tests. Imports predictors and before."""
