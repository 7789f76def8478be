# Shared by scripts/test and scripts/interop; to be sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
# shellcheck disable=SC2034  # used by the scripts that source this one
tools=$target/tools
venv=$target/venv
# Read by the tests that drive the binary, in whatever language.
export YETA_GATEWAY_BIN=$target/debug/yeta-gateway
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
cd "$root" || exit 1

script=$(basename "$0")
steps=0
current="the preparations"

# step NAME COMMAND…: runs the command under a heading and tells how long it took.
# The first failure ends the script: `set -e` holds inside the command too.
step() {
  current=$1
  shift
  local started=$SECONDS
  printf '\n=== %s\n' "$current"
  "$@"
  steps=$((steps + 1))
  printf '=== %s: ok, %d s\n' "$current" $((SECONDS - started))
}

# Processes that the script has started for itself, by their ids.
background=()

# Ends them. The last line says how the script ended, whatever ended it.
finish() {
  local status=$? pid
  for pid in "${background[@]}"; do
    kill "$pid" 2>/dev/null || true
  done
  if [ "$status" -eq 0 ]; then
    printf '\n%s: PASSED, %d steps in %d s\n' "$script" "$steps" "$SECONDS"
  else
    printf '\n%s: FAILED in "%s" after %d s (exit %d)\n' "$script" "$current" "$SECONDS" "$status"
  fi
}
trap finish EXIT

# python_packages REQUIREMENTS…: the requirement files' packages, in a virtual
# environment under target/ that later runs use again.
python_packages() {
  local python
  python=$(command -v python3) || fail "python3 is missing"
  if ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    # Debian ships venv without ensurepip unless python3-venv is installed; a pip
    # outside can fill an environment that has none of its own.
    "$python" -m venv "$venv" >/dev/null 2>&1 || {
      rm -rf "$venv"
      "$python" -m venv --without-pip "$venv"
    }
  fi
  local file stamp
  for file in "$@"; do
    stamp=$venv/installed-$(sha256sum "$file" | cut -c1-16)
    [ ! -e "$stamp" ] || continue
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
      "$venv/bin/python" -m pip install --quiet --requirement "$file"
    elif "$python" -m pip --version >/dev/null 2>&1; then
      "$python" -m pip --python "$venv/bin/python" install --quiet --requirement "$file"
    else
      fail "no pip: install python3-venv or python3-pip"
    fi
    touch "$stamp"
  done
}

# need COMMAND…: fails at once, with the names of what is missing.
need() {
  local command missing=()
  for command in "$@"; do
    command -v "$command" >/dev/null 2>&1 || missing+=("$command")
  done
  [ ${#missing[@]} -eq 0 ] || fail "missing on this machine: ${missing[*]}"
}

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}
