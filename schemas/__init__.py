"""What comes in and what goes out, checked and serialised with marshmallow.

Imports nothing else of this project.
"""
