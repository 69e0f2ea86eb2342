"""Training of models: phantoms to learn from, the loop, and the evaluation on real series."""
