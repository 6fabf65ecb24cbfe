"""The checks, a theme each. `groups.py` lists them; a check is a function of the bench that returns its figures."""
