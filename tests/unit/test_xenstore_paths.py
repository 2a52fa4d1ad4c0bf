"""Which paths are paths, what relative ones mean, and the text of permissions."""

from __future__ import annotations

import pytest

from pores.errors import XenstoreError
from pores.xenstore.paths import MAX_PATH, canonical, check_path, is_below, names_of, parent_of, shown_as
from pores.xenstore.perms import ALL, READ, WRITE, Perm, access_of, format_perms, parse_perms, perms_for


@pytest.mark.parametrize("path", ["/", "/a", "/a/b", "/local/domain/5/data/straw/7", "/A-Z_0@x/-", "/" + "x" * 2047])
def test_valid(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "a", "a/b", "//", "/a/", "/a//b", "/a.b", "/a b", "/ä", "/a\n", "/a\0", "@releaseDomain", "/\ud800", "/a:b"],
)
def test_invalid(path: str) -> None:
    with pytest.raises(XenstoreError) as error:
        check_path(path)
    assert error.value.name == "EINVAL"


def test_the_limit_does_not_count_the_domains_home() -> None:
    check_path("/" + "x" * (MAX_PATH - 1))
    check_path("/local/domain/12345/" + "x" * MAX_PATH)
    for path in ("/" + "x" * MAX_PATH, "/local/domain/12345/" + "x" * (MAX_PATH + 1), "/local/domain/x/" + "x" * 2048):
        with pytest.raises(XenstoreError):
            check_path(path)


def test_forms() -> None:
    home = "/local/domain/5"
    assert canonical("data/x", home) == "/local/domain/5/data/x"
    assert canonical("/data", home) == "/data"
    assert canonical("@releaseDomain", home) == "@releaseDomain"
    assert shown_as("/local/domain/5/data/x", home) == "data/x"
    assert shown_as("/local/domain/5/data/x", None) == "/local/domain/5/data/x"
    assert names_of("/") == []
    assert names_of("/a/b") == ["a", "b"]
    assert (parent_of("/a/b"), parent_of("/a")) == ("/a", "/")
    assert is_below("/a/b", "/a") and is_below("/a", "/a") and is_below("/a", "/") and not is_below("/ab", "/a")


def test_text_of_permissions() -> None:
    perms = parse_perms(["n0", "r5", "w6", "b7"])
    assert perms == (Perm(0, 0), Perm(READ, 5), Perm(WRITE, 6), Perm(READ | WRITE, 7))
    assert format_perms(perms) == ["n0", "r5", "w6", "b7"]
    assert perms_for("n0 r5") == parse_perms(["n0", "r5"])


@pytest.mark.parametrize("text", ["", "n", "x5", "5", "n-1", "n 5", "n05", "n5 ", "n5\n", "n123456", "N5", "n٣"])
def test_no_permission(text: str) -> None:
    with pytest.raises(XenstoreError) as error:
        parse_perms([text])
    assert error.value.name == "EINVAL"
    with pytest.raises(XenstoreError):
        parse_perms([])


def test_access() -> None:
    perms = (Perm(READ, 5), Perm(WRITE, 6), Perm(0, 7), Perm(ALL, 6), Perm(WRITE, 8, dead=True))
    assert access_of(0, perms) == ALL
    assert access_of(5, perms) == ALL
    assert access_of(6, perms) == WRITE  # the first entry that fits
    assert access_of(7, perms) == 0
    assert access_of(8, perms) == READ  # a dead entry gives and takes nothing
    assert access_of(9, perms) == READ
