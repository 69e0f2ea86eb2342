"""Behaviour of the node, as sentences."""
