"""What is scarce, dealt out fairly. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def fair_shares(wanted: Mapping[int, int], total: int, held: Mapping[int, int]) -> dict[int, int]:
    """`total` dealt out max-min fairly: nobody gets more than it wants, and what it leaves goes to the others.

    Odd units go to those who hold most already, so that they need not change hands.
    """
    shares = {}
    for left, worker in zip(range(len(wanted), 0, -1), sorted(wanted, key=lambda w: (wanted[w], w)), strict=True):
        shares[worker] = min(wanted[worker], total // left)
        total -= shares[worker]
    for worker in sorted(wanted, key=lambda w: (-held.get(w, 0), w)):
        if total and shares[worker] < wanted[worker]:
            shares[worker] += 1
            total -= 1
    return shares
