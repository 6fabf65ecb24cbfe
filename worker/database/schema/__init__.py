"""The schema: its SQL files and their order, how they are applied or printed, and what a database has lost of it."""
