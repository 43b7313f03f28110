"""Looking inside an encoder: networks, filters, geometry."""
