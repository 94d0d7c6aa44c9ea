"""The networks.

A MossFormer, from the smallest part to the largest: `layers`, `attention`, `block`, `masknet`, `separator`; what
MossFormer2 adds: `recurrent`, `mossformer2`; `sizes` has the published ones. `mossformer_sb.network.fast` is what makes
them fast, and has the switch that turns it off. The network is complete without that folder.
"""

import importlib
import importlib.util

if importlib.util.find_spec(f"{__name__}.fast"):
    importlib.import_module(f"{__name__}.fast.register")
