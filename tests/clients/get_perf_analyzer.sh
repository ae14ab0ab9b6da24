#!/usr/bin/env bash
# Puts NVIDIA's load generator from PyPI into the folder $2, with $1 as Python: $2/run starts it.
# The program needs glibc 2.38; on an older Debian it gets libraries of Debian 13, unpacked beside it and used by it alone.
set -euo pipefail
python=$1 place=$2 version=2.60.0
[ "$(cat "$place/.version" 2>/dev/null)" = "$version" ] && exit 0
arch=$(uname -m)
mkdir -p "$place"
place=$(cd "$place" && pwd)
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform "manylinux_2_38_$arch" -d "$place" "perf-analyzer==$version"
"$python" -m zipfile -e "$place"/perf_analyzer-"$version"-*.whl "$place/wheel"
binary=$place/wheel/perf_analyzer/bin/perf_analyzer
chmod +x "$binary"
if "$binary" --version >/dev/null 2>&1; then
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$binary" >"$place/run"
else
    mkdir -p "$place"/apt/state/lists/partial "$place"/apt/cache/archives/partial "$place/root"
    echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main' >"$place/apt/sources.list"
    : >"$place/apt/status"
    options=(-qq -o "Dir::Etc::sourcelist=$place/apt/sources.list" -o Dir::Etc::sourceparts=/nonexistent
        -o "Dir::State=$place/apt/state" -o "Dir::State::status=$place/apt/status" -o "Dir::Cache=$place/apt/cache")
    apt-get "${options[@]}" update
    (cd "$place/apt" && apt-get "${options[@]}" download libc6 libstdc++6 libgcc-s1 libssl3t64 zlib1g libzstd1)
    for package in "$place"/apt/*.deb; do dpkg-deb -x "$package" "$place/root"; done
    libraries=$place/root/usr/lib/$arch-linux-gnu
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$libraries"/ld-linux-*.so.* "$libraries" "$binary" >"$place/run"
fi
chmod +x "$place/run"
"$place/run" --version >&2
printf '%s' "$version" >"$place/.version"
