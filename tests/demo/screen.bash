# What a person reads: headings, details, commands. In colour on a terminal only.
# shellcheck shell=bash

bold="" dim="" green="" red="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

heading() { printf '\n%s%s%s  %s%s%s\n' "$bold" "$1" "$plain" "$dim" "${2:-}" "$plain"; }
detail() { printf '   %s\n' "$*"; }
command_line() { printf '   %s$ %s%s\n' "$dim" "$*" "$plain"; }
proved() { printf '   %s✓%s %s\n' "$green" "$plain" "$*"; }

fail() {
  printf '   %s✗%s %s\n' "$red" "$plain" "$*" >&2
  printf '     The cluster is left as it is for a look; make demo-down removes it.\n' >&2
  exit 1
}
