"""PFP's sensitivities, exactly: by screening on the CPU or on a device, or inside the graph."""
