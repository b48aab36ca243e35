"""Where the time of a compiled model goes: measured calls (calls.py), what they need at least (floors.py), the table (profile.py)."""
