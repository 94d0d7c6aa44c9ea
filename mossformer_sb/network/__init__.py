"""The networks. `mossformer_sb.network.fast` is what makes them fast, and the switch that turns it off."""
