"""Measurements of speed, memory and cost; `make bench` runs them all."""
