"""Real daemons under a seeded schedule of kills, freezes and network faults, and an audit of the outcome of every
job."""
