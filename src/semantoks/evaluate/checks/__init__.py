"""What else could explain a score: sites, motion, leaks. Imports compare and before."""
