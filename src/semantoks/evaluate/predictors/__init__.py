"""What learns a target: probes, fine-tuning. Imports features and stats."""
