# Sourced by the tools: makes .venv with what the tool needs, once, and says so.
# Needs only Python >= 3.10 and pip's network. PYTHON=... chooses the interpreter.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
venv="$root/.venv"
python="$venv/bin/python"

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { command -v "$candidate"; return; }
    done
    say "error: no Python >= 3.10 found; install one or set PYTHON=/path/to/python3"
    exit 2
}

# prepare EXTRA [OPTIONAL_EXTRA]: OPTIONAL_EXTRA may fail to install (no wheel for this machine) and is then left out.
prepare() {
    local extra=$1 optional=${2:-} stamp
    if [ ! -x "$python" ]; then
        local found; found=$(find_python) || exit 2
        say "making .venv with $("$found" --version)"
        "$found" -m venv "$venv" || { say "error: 'python3 -m venv' failed; on Debian: apt install python3-venv"; exit 2; }
    fi
    stamp="$venv/.edge_sdk.$extra${optional:+.$optional}"
    if ! cmp -s pyproject.toml "$stamp"; then
        say "installing edge_sdk[$extra] into .venv (first time or pyproject.toml changed)"
        "$python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]" >&2 || {
            say "error: pip could not install edge_sdk[$extra]; its message is above"; exit 2; }
        if [ -n "$optional" ]; then
            say "installing edge_sdk[$optional] (NVIDIA's compiler, about 100 MB to download)"
            "$python" -m pip install --quiet --disable-pip-version-check --editable ".[$optional]" >&2 ||
                say "note: edge_sdk[$optional] has no wheel here; what needs it is skipped and says so"
        fi
        cp pyproject.toml "$stamp"
    fi
}
