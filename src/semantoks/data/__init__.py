"""How files become one memory-mapped store of recordings. Imports atlas."""
