# What the scripts of this folder share: where things are kept, steps with a deadline, and a record of what was left out.
# shellcheck shell=bash
# shellcheck disable=SC2034 # each script uses what it needs
#
# These scripts also run where bash is old (3.2) and `timeout` and `flock` are missing: on macOS.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dot-sidecar
images=$cache/images
left_out_file=${DOT_LEFT_OUT:-$cache/left-out}
cluster=$top/tests/cluster/cluster
static_target=$(uname -m)-unknown-linux-gnu
export PATH=$cache/bin:$PATH:/usr/sbin:/sbin

# ours FOLDER…: forgets what cargo compiled there of another checkout of this project. Cargo goes by the times of files, and would
# take that for ours, with the other's paths in it.
ours() {
  local folder
  for folder in "$@"; do
    mkdir -p "$folder"
    [ "$(cat "$folder/.checkout" 2>/dev/null || true)" = "$top" ] || rm -rf "$folder"/{,"$static_target"/}{debug,release}/.fingerprint/dot-*
    echo "$top" >"$folder/.checkout"
  done
}
ours "$cache/target" "$cache/fuzz/target"

say() { printf '── %s\n' "$*"; }
die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# within MINUTES COMMAND…: ends the command when it takes longer. At a terminal it stays in the foreground, so that Ctrl-C
# reaches it.
within() {
  local minutes=$1 foreground=""
  shift
  [ ! -t 1 ] || foreground=--foreground
  if has timeout; then
    timeout ${foreground:+"$foreground"} --kill-after=10 "${minutes}m" "$@" </dev/null
  else
    "$@" </dev/null
  fi
}

# step MINUTES WHAT COMMAND…: says what is done, and how long it took.
step() {
  local minutes=$1 what=$2 began=$SECONDS status=0
  shift 2
  say "$what"
  within "$minutes" "$@" || status=$?
  case $status in
    0) say "$what: done in $((SECONDS - began)) s" ;;
    124 | 137) die "$what: stopped after $minutes minutes: ${*}" ;;
    *) die "$what: failed with exit code $status: ${*}" ;;
  esac
}

# left_out WHAT WHY: a check that this machine cannot run. `make test` lists them, `.ci/run` does not accept any.
left_out() {
  mkdir -p "$(dirname "$left_out_file")"
  say "left out: $1: $2"
  echo "$1: $2" >>"$left_out_file"
}

has() { command -v "$1" >/dev/null; }

version() { sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml"; }

# The helm of this machine, else the one that the cluster is built with. Sets $helm, or leaves it empty.
find_helm() {
  helm=$(command -v helm || true)
  [ -z "$helm" ] || return 0
  ! has go || step 50 "helm" "$cluster" build helm
  [ ! -x "$cache/cluster/bin/helm" ] || helm=$cache/cluster/bin/helm
}
