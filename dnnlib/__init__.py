"""Small helpers without a machine-learning dependency: option dictionaries, object look-up by name, downloads."""

from .util import EasyDict, make_cache_dir_path

__all__ = ["EasyDict", "make_cache_dir_path"]
