"""Removes personal data and profanity from a transcript before any output is written. Pure; keeps counts, never the text."""

from daemon.privacy.redact import protect as protect
