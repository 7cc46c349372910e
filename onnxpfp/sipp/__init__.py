"""SiPP: which single weights of layers stay, by their sensitivities; numpy alone."""
