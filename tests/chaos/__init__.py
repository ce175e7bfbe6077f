"""Real daemons under a seeded schedule of kills, freezes and network faults; and an audit of what came of every job."""
