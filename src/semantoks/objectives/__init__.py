"""What is learned: loss terms and self-supervised methods."""
