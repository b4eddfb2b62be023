"""The editor: a local server of the standard library's kind and a static page; `edit.py` starts it.

guard: who may ask.  studio: the editing session behind a lock, images as bytes.  app: addresses and JSON.
server: a port, a thread for each request.  static/: the page, plain ES modules without a build step.
"""
