"""Images out of a finished network: from seeds, films, projection, style mixing, and pictures laid out on a page.

For `generate.py`, `projector.py`, `style_mixing.py` and the metrics. Knows nothing of training.
"""
