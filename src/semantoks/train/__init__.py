"""Pretraining: schedules, optimiser, checkpoints, the loop."""
