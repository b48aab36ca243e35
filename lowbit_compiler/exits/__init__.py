"""Where a rewritten graph goes: each exit brings the passes that come after the waist."""
