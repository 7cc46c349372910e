"""Bodies of If, Loop and Scan: taken out as models of their own, fed what they read, and put back pruned."""
