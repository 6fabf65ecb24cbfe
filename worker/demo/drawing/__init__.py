"""Draws photographs of people who do not exist. `person.py` describes a person and a scene, `portrait.py` draws both
and saves photographs, and every other file draws one thing.
"""
