#!/bin/sh
# Installs the Debian packages that are missing, where it may; says what is missing where it may not, and goes on.
#
#   tools/debian.sh build|test|xen|java   PYTHON in the environment: the Python that the virtual environment is made with
#
# build: what the venv and the extension need, by looking whether it works, so that a Python from elsewhere is fine.
# test:  the BEAMs and tools of the interop tests, and Xen's programs for the store.
# xen:   what boots a Xen without one; what it boots is fetched by the tests themselves and not installed (tests/xen).
# java:  the JDK and Jinterface, large and therefore apart.
set -u
PYTHON=${PYTHON:-python3}

TEST="erlang-base erlang-dev erlang-eunit erlang-crypto erlang-ssl erlang-public-key erlang-asn1
      erlang-runtime-tools erlang-syntax-tools erlang-tools elixir
      xenstore-utils xen-utils-4.17"
XEN="qemu-system-x86"
JAVA="default-jdk-headless default-jre-headless erlang-jinterface"

has_header() {
    printf '#include <%s>\n' "$2" | cc -E $1 - >/dev/null 2>&1
}

missing_for_build() {
    command -v cc >/dev/null || echo gcc
    has_header "" stdlib.h || echo libc6-dev
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    include=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$include/Python.h" ] || echo python3-dev
}

missing_packages() {
    for package in "$@"; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
            *" installed") ;;
            *) echo "$package" ;;
        esac
    done
}

case ${1:-} in
    build) missing=$(missing_for_build) ;;
    test) missing=$(missing_packages $TEST) ;;
    xen) missing=$(command -v qemu-system-x86_64 >/dev/null || missing_packages $XEN) ;;
    java) missing=$(command -v javac >/dev/null && missing_packages erlang-jinterface || missing_packages $JAVA) ;;
    *)
        echo "usage: tools/debian.sh build|test|xen|java" >&2
        exit 2
        ;;
esac
missing=$(echo $missing)
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Missing, by the names of Debian's packages: $missing"
elif [ "$(id -u)" -ne 0 ]; then
    echo "Missing Debian packages; as root: apt-get install --no-install-recommends $missing"
else
    echo "Installing Debian packages: $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || echo "apt-get update failed; trying with the lists as they are"
    # One name that this release does not have must not keep the others away.
    apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null ||
        for package in $missing; do
            apt-get install -y -qq --no-install-recommends "$package" </dev/null >/dev/null ||
                echo "could not install $package; the tests that need it say so and skip"
        done
fi
exit 0
