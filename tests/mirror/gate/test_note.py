"""The tree and the notes against the vectors of their specifications' reference implementations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate.merkle import EMPTY_ROOT, Tree, leaf_hash, node_hash
from mirror.gate.note import Checkpoint, ForeignKeyError, NoteError, Signer, Verifier

# Leaves and roots of the reference tests of Certificate Transparency (RFC 6962, RFC 9162).
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# The example of the reference implementation of signed notes, and that of the specification.
SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = (
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
OTHER = (
    "— EnochRoot "
    "rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


@pytest.mark.parametrize("size", range(9))
def test_the_tree_of_rfc_6962(size: int) -> None:
    tree = Tree()
    for leaf in LEAVES[:size]:
        tree.append(bytes.fromhex(leaf))
    assert tree.root().hex() == ROOTS[size]
    assert tree.size == size


def plain_root(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(plain_root(leaves[:split]), plain_root(leaves[split:]))


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_growing_gives_the_root_of_the_definition(leaves: list[bytes]) -> None:
    tree = Tree()
    for number, leaf in enumerate(leaves, 1):
        tree.append(leaf)
        assert tree.root() == plain_root(leaves[:number])


def test_the_reference_note() -> None:
    signer = Signer.parse(SIGNER)
    assert str(signer.verifier) == VERIFIER
    assert signer.to_text() == SIGNER
    assert signer.sign(TEXT) == TEXT + "\n" + SIGNATURE
    assert Verifier.parse(VERIFIER).open(TEXT + "\n" + OTHER + SIGNATURE) == TEXT
    assert Verifier.parse(FOO).open(FOO_NOTE) == "This is an example message.\n"


def test_a_foreign_key_and_a_false_signature_differ() -> None:
    with pytest.raises(ForeignKeyError):
        Verifier.parse(VERIFIER).open(TEXT + "\n" + OTHER)
    with pytest.raises(NoteError, match="does not fit"):
        Verifier.parse(VERIFIER).open("Another text.\n\n" + SIGNATURE)


@pytest.mark.parametrize("key", [VERIFIER, FOO])
def test_no_part_of_a_verifier_key_may_change(key: str) -> None:
    for place in range(len(key)):
        for text in (key[:place] + chr(ord(key[place]) + 1) + key[place + 1 :], key[:place]):
            with pytest.raises(NoteError):
                Verifier.parse(text)


@pytest.mark.parametrize(
    "note",
    [
        "", "\n", TEXT, TEXT + SIGNATURE, TEXT + "\n" + SIGNATURE.rstrip("\n"),
        TEXT + "\n" + SIGNATURE + "\n",
        TEXT + "\n" + SIGNATURE.replace("—", "-"), TEXT + "\n" + SIGNATURE.replace(" ", "  "),
        TEXT + "\n" + SIGNATURE.replace("\n", "\r\n"), TEXT + "\n" + SIGNATURE.replace("=", ""),
        TEXT + "\n— PeterNeumann !!!!\n", TEXT + "\n— PeterNeumann AAAA\n", TEXT + "\x00\n" + SIGNATURE,
        TEXT + "\n" + SIGNATURE * 101,
    ],
)  # fmt: skip
def test_notes_that_are_none(note: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(VERIFIER).open(note)


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_byte_of_a_note_may_change(place: int, change: int) -> None:
    note = bytearray((TEXT + "\n" + SIGNATURE).encode())
    note[place % len(note)] ^= change
    try:
        text = note.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(NoteError):
        Verifier.parse(VERIFIER).open(text)


def test_the_checkpoint_of_the_specification() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = Checkpoint.parse(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert str(checkpoint) == text
    assert Checkpoint.parse(text + "an extension\n") == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "", "a\n1\n", "a\n01\n@@=\n",
        "a\n-1\n@@=\n",
        "a\n\u0661\n@@=\n",
        "a\n1\n@@\n", "a\n1\nAAAA\n",
        "\n1\n@@=\n",
        "a\n1\n@@=", "a\n1\n\n@@=\n",
    ],
)  # fmt: skip
def test_checkpoints_that_are_none(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(text.replace("@@", "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I"))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\n"])
def test_names_of_keys(name: str) -> None:
    with pytest.raises(NoteError):
        Signer.generate(name)
