"""How files become files, one module per command. Imports report and all before it."""
