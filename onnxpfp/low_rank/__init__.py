"""Low rank: an op that multiplies by weights becomes two that multiply by fewer."""
