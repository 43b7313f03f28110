"""Which ROI is which: names, order, coordinates and functional network of every ROI."""
