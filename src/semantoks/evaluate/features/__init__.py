"""What a probe reads of a recording: embeddings, baselines. Imports model and stats."""
