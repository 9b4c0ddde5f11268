"""Files that hold a network or its weights: our own model file and what can be imported."""
