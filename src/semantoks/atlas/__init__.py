"""Which ROI is which: names, order, coordinates, functional networks. Imports errors and config."""
