"""Embeddings, probes, baselines, statistics."""
