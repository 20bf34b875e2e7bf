"""A Merkle tree over the rows of trials, as RFC 6962 has it, so that one row can be shown without the others.

A leaf is hashed behind a byte 0, a node behind a byte 1, so that neither passes for the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: No tree of ours is so high; a proof that is longer proves nothing.
_HIGHEST = 64


@dataclass(frozen=True)
class Proof:
    """That a leaf is in a tree: an audit path.

    Attributes:
        index: of the leaf, from 0.
        size: leaves of the tree.
        path: digests of the neighbours on the way from the leaf to the root, in hexadecimal.
    """

    index: int
    size: int
    path: tuple[str, ...]


def root(leaves: Iterable[bytes]) -> str:
    """The root over ``leaves``, in hexadecimal; of none, the SHA-256 of nothing. Holds a node a level, no more."""
    # Full subtrees, each half as high as the one before it or lower.
    stack: list[bytes] = []
    for count, leaf in enumerate(leaves, 1):
        stack.append(_leaf(leaf))
        full = count
        while full % 2 == 0:
            right, left = stack.pop(), stack.pop()
            stack.append(_node(left, right))
            full //= 2
    if not stack:
        return hashlib.sha256(b"").hexdigest()
    found = stack.pop()
    while stack:
        found = _node(stack.pop(), found)
    return found.hex()


def proof(leaves: Sequence[bytes], index: int) -> Proof:
    """The proof that ``leaves[index]`` is one of them.

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index}: there are {len(leaves)}")
    path: list[str] = []
    first, last = 0, len(leaves)
    # From the root down, so the path comes out the other way round.
    while last - first > 1:
        middle = first + _split(last - first)
        if index < middle:
            path.append(root(leaves[middle:last]))
            last = middle
        else:
            path.append(root(leaves[first:middle]))
            first = middle
    return Proof(index, len(leaves), tuple(reversed(path)))


def check(leaf: bytes, proof: Proof, root: str) -> bool:
    """Whether ``leaf`` is where ``proof`` says in the tree of that ``root``. What makes no sense proves nothing."""
    at, last = proof.index, proof.size - 1
    if not 0 <= at <= last or len(proof.path) > _HIGHEST:
        return False
    found = _leaf(leaf)
    for text in proof.path:
        try:
            neighbour = bytes.fromhex(text)
        except ValueError:
            return False
        if last == 0 or len(neighbour) != hashlib.sha256().digest_size:
            return False
        if at % 2 or at == last:
            found = _node(neighbour, found)
            while at % 2 == 0 and at:
                at, last = at // 2, last // 2
        else:
            found = _node(found, neighbour)
        at, last = at // 2, last // 2
    return last == 0 and found.hex() == root


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << (count - 1).bit_length() - 1


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
