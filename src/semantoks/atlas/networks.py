"""The functional networks of the method: their names, their order, and what belongs to which."""

from __future__ import annotations

from collections.abc import Iterable

#: Order of the networks in the method (METHOD section "Notation"): Yeo-7, then the two others.
NETWORK_ORDER = (
    "Vis",
    "SomMot",
    "DorsAttn",
    "SalVentAttn",
    "Limbic",
    "Cont",
    "Default",
    "Subcortical",
    "Cerebellar",
)

#: Yeo-17, in the order of the published 17 + 2 map (LimbicB before LimbicA).
YEO_17 = (
    "VisCent",
    "VisPeri",
    "SomMotA",
    "SomMotB",
    "DorsAttnA",
    "DorsAttnB",
    "SalVentAttnA",
    "SalVentAttnB",
    "LimbicB",
    "LimbicA",
    "ContA",
    "ContB",
    "ContC",
    "DefaultA",
    "DefaultB",
    "DefaultC",
    "TempPar",
)

# Cortex first, whichever division of it, then the rest.
_CANONICAL_ORDER = NETWORK_ORDER[:7] + YEO_17 + NETWORK_ORDER[7:]


def canonical_network(network: str) -> str:
    """Return the network of `NETWORK_ORDER` that a Yeo-17 network belongs to; others as they are.

    The temporo-parietal network, which Yeo-7 divides, counts as Default, with which most of it
    overlaps.
    """
    if network == "TempPar":
        return "Default"
    if network not in YEO_17:
        return network
    return next(name for name in NETWORK_ORDER if network.startswith(name))


def in_canonical_order(networks: Iterable[str]) -> tuple[str, ...]:
    """Return every network once: those of the method in its order, then others as they appear."""
    present = dict.fromkeys(networks)
    others = [name for name in present if name not in _CANONICAL_ORDER]
    return tuple([name for name in _CANONICAL_ORDER if name in present] + others)
