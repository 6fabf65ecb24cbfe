"""Trains the small base that ships with the demo, on people drawn by code."""
