"""Changes, records and settings: their shapes, checked and serialised with marshmallow.

Imports nothing else of this project.
"""
