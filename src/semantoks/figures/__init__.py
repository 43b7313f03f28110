"""What runs, scores and brains look like, as figures. Imports explain and all before it."""
