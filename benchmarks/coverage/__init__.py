"""Coverage: graphs of many architectures and exporters, pruned and verified."""
