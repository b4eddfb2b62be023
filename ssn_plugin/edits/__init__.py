"""Editing images: what to redraw, how an edit is recorded, replayed, drawn on a page and saved.

For `generate.py` and the plugin's commands. Knows networks by what they can do, not by their class.
"""
