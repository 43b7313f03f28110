"""How recordings are found in folders, tables and files, and read. Imports the records of data."""
