"""From files to one memory-mapped store of recordings."""
