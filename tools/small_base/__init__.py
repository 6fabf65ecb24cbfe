"""A small base of our own: people drawn by code, and the models that learn to draw them."""
