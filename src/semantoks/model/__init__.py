"""How views become embeddings: tokenizers, encoder, weights. Imports data and atlas."""
