"""How a model is trained: configuration, loop, checkpoints, processes. Imports objectives."""
