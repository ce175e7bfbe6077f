"""Kernel restrictions that a process applies to itself: system call filters (seccomp) and Landlock. No privilege is needed."""
