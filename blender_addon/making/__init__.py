"""Clips on their way: what they are, where they stand, what is seen of them."""
