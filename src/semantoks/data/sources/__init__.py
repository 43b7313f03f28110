"""From what a lab has to recordings: one module per kind of source, all found by `find_items`."""
