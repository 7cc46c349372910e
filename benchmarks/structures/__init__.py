"""What each structure loses at equal multiply-adds: channels, ranks, and what `prune --structure` takes of them."""
