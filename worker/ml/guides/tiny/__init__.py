"""Guides of a few MB with random weights, in the layout of real ones, for tests."""
