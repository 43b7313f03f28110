"""How recordings become batches of cropped, augmented, masked views. Imports data."""
