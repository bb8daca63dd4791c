"""A supervisor against a model of it: random lives, and the laws that hold for each of them."""
