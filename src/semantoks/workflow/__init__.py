"""Whole steps from files to files, as the command line offers them."""
