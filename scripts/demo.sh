#!/bin/sh
# A sample photo to an embedding, and three pairs compared. Needs `tinyface` on the PATH.
set -eu
cd "$(dirname "$0")/../docs/images"

show() { # print a command, then run it; 10 is the exit status of "different"
    printf '\n$ %s\n' "$*"
    "$@" || { status=$?; [ "$status" -eq 10 ] || exit "$status"; }
}

show tinyface embed portrait_a.jpg
echo
echo 'A picture and a changed copy of it (darker, turned by 6 degrees, blurred, strongly compressed):'
show tinyface verify portrait_a.jpg portrait_a_changed.jpg
echo
echo 'Two people:'
show tinyface verify portrait_a.jpg portrait_b.jpg
echo
echo 'Next:  . .venv/bin/activate  and  tinyface --help'
