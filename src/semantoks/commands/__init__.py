"""Command line: which words a user types; a thin layer over `workflow`. May import everything."""
