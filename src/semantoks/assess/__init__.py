"""Which questions are put to a set of models on one store. Imports figures and all before it."""
