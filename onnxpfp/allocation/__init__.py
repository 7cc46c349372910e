"""Budget: what a width costs, and how many channels each group may keep. Pure numpy."""
