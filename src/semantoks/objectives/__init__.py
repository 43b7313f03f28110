"""What the encoder learns from: objectives and their loss terms. Imports model and views."""
