"""Draws photographs of people who do not exist. `person.py` describes a person and a scene, `portrait.py` draws them and
saves photographs; the other files draw one thing each.
"""
