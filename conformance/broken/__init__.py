"""Servers that are wrong on purpose, and the proof that the suite finds what is wrong with them."""
