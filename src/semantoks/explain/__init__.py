"""What an encoder has learned: networks, filters, geometry. Imports evaluate and all before it."""
