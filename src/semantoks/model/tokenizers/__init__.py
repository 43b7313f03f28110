"""How signals become tokens: one file per kind, and the table of them. Imports data and atlas."""
