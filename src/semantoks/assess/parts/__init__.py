"""Which questions an evaluation asks beyond the comparison: one file each, listed in `table`."""
