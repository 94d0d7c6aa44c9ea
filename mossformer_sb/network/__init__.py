"""The networks.

The modules of MossFormer, from the smallest to the largest: `layers`, `attention`, `block`, `masknet`, `separator`; the
additions of MossFormer2: `recurrent`, `mossformer2`; `sizes` has the published sizes. `mossformer_sb.network.fast` has
fast implementations, and the switch that disables them. The network is complete without that folder.
"""

import importlib
import importlib.util

if importlib.util.find_spec(f"{__name__}.fast"):
    importlib.import_module(f"{__name__}.fast.register")
