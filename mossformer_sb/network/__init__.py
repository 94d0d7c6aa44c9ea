"""The networks.

A MossFormer, from the smallest part to the largest: `layers`, `attention`, `block`, `masknet`, `separator`; what
MossFormer2 adds: `recurrent`, `mossformer2`; `sizes` has the published ones. `mossformer_sb.network.fast` has their
fast implementations, and the switch that turns these off. The network is complete without that folder.
"""

import importlib
import importlib.util

if importlib.util.find_spec(f"{__name__}.fast"):
    importlib.import_module(f"{__name__}.fast.register")
