"""What must not be read, taken out of a transcript before any output is made of it. Pure; keeps counts, never what was found."""

from daemon.privacy.redact import protect as protect
