"""What programs call: prune, inspect, prunability and saving a result, one file each."""
