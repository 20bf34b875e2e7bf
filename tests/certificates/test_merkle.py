"""The tree of RFC 6962: its known answers, and the laws of its proofs."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.certificates import merkle

LEAVES = st.lists(st.binary(max_size=6), min_size=1, max_size=40)
#: The test vectors of the reference implementation of Certificate Transparency.
KNOWN = [b"", b"\0", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43"]
KNOWN += [b"\x50\x51\x52\x53\x54\x55\x56\x57", b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f"]


def by_the_definition(leaves):
    """The tree hash in the words of RFC 6962, section 2.1."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\1" + by_the_definition(leaves[:half]) + by_the_definition(leaves[half:])).digest()


def test_known_answers():
    assert merkle.root([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.root(KNOWN[:1]) == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert merkle.root(KNOWN[:2]) == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    assert merkle.root(KNOWN) == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(LEAVES)
def test_the_root_is_that_of_the_definition(leaves):
    assert merkle.root(iter(leaves)) == by_the_definition(leaves).hex()


@given(LEAVES, st.data())
def test_each_leaf_has_a_proof_and_no_other_leaf_place_or_path_has_it(leaves, data):
    root = merkle.root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle.proof(leaves, index)
    assert merkle.check(leaves[index], proof, root)
    assert len(proof.path) <= len(leaves).bit_length()
    assert not merkle.check(leaves[index] + b"x", proof, root)
    assert not merkle.check(leaves[index], proof, merkle.root([*leaves, b"x"]))
    assert not merkle.check(leaves[index], replace(proof, path=(*proof.path, "00" * 32)), root)
    if proof.path:
        assert not merkle.check(leaves[index], replace(proof, path=proof.path[:-1]), root)
        at = data.draw(st.integers(0, len(proof.path) - 1))
        changed = tuple("00" * 32 if place == at else text for place, text in enumerate(proof.path))
        assert not merkle.check(leaves[index], replace(proof, path=changed), root)


@given(st.binary(max_size=3), st.integers(), st.integers(-3, 2**70), st.lists(st.text(max_size=3), max_size=70))
def test_any_other_proof_proves_nothing(leaf, index, size, path):
    assert not merkle.check(leaf, merkle.Proof(index, size, tuple(path)), "00" * 32)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_leaf_that_is_not_there_has_no_proof(index):
    with pytest.raises(IndexError, match="there are 3"):
        merkle.proof([b"a", b"b", b"c"], index)


def test_a_node_does_not_pass_for_a_leaf():
    a, b = (hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"a", b"b"))
    assert merkle.root([a + b]) != merkle.root([b"a", b"b"])
