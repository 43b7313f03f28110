"""From recordings to a batch of two augmented, masked views."""
