#!/usr/bin/env bash
# What a new user does, with the time of each step: a fresh clone, the tests, the demo, a search on pictures of one's own.
#
#   benchmarks/first_run.sh [PICTURES]    PICTURES: a folder with a folder for each class, or of Parquet files; without it
#                                         the last part is left out
#
# It works in a new folder under TMPDIR, with a cache of its own, and needs git, make and Python 3.11 or newer.
set -euo pipefail
root=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
pictures=${1:+$(realpath "$1")}
place=$(mktemp -d)
export HWNAS_CACHE=$place/cache
times=()

step() { # TITLE COMMAND...
  local title=$1 began=$SECONDS
  shift
  echo "== $title: $*"
  "$@"
  times+=("$(printf '%6d s  %s' $((SECONDS - began)) "$title")")
}

cd "$place"
step "fresh clone" git clone --quiet "$root" hwnas
cd hwnas
step "install" make install
step "tests" make test
step "demo" make demo
if [ -n "$pictures" ]; then
  hwnas=$PWD/.venv/bin/hwnas
  cd "$place"
  step "supernet" "$hwnas" train --space autoformer-micro --data "$pictures" --epochs 10 --out runs/supernet
  step "profile" "$hwnas" profile --space autoformer-micro --device cpu --samples 40
  step "fit" "$hwnas" fit --device cpu --space autoformer-micro
  step "search" "$hwnas" search --supernet runs/supernet --device cpu --objective throughput --budget 60 --out runs/search
  step "report" "$hwnas" report runs/search
fi
echo "== times, on $(nproc) cores, in $place"
printf '%s\n' "${times[@]}"
