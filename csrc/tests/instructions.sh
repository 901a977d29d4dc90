#!/usr/bin/env bash
# instructions.sh TEST_ANSWER: instructions of one small answer, counted by callgrind, against the count that is kept here.
# Time on a shared machine can't guard speed, a count can. Raise or lower `kept` with the change that moves it, and say why.
set -euo pipefail

kept=29745892          # with AVX2, oneDNN 2.6.3, GCC 12
band=3          # per cent, for compilers and libraries

skip() { echo "SKIP: $*"; exit 77; }
command -v valgrind >/dev/null || skip "valgrind is not installed"
grep -qw avx2 /proc/cpuinfo 2>/dev/null || skip "the count is kept for processors with AVX2"
if grep -qw avx512f /proc/cpuinfo; then skip "valgrind does not know AVX-512, for which this build may be compiled"; fi
[[ $(ldconfig -p 2>/dev/null) == *libdnnl* ]] || skip "the count is kept with oneDNN"
[ -z "${UNIBIOMED_ACCEL:-}" ] || skip "UNIBIOMED_ACCEL is set"

out=$(mktemp)
trap 'rm -f "$out"' EXIT
OMP_NUM_THREADS=1 valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=counted_answer "$1" >"$out" 2>&1 || { cat "$out"; exit 1; }
counted=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$out")
[ -n "$counted" ] && [ "$counted" -gt 0 ] || { cat "$out"; echo "callgrind counted nothing"; exit 1; }
echo "$counted instructions, kept: $kept, $(awk "BEGIN { printf \"%+.2f\", 100 * ($counted - $kept) / $kept }") % (band: $band %)"
low=$((kept * (100 - band) / 100)) high=$((kept * (100 + band) / 100))
[ "$counted" -ge "$low" ] && [ "$counted" -le "$high" ] || { echo "outside the band: find what changed, or keep the new count"; exit 1; }
