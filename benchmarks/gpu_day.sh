#!/usr/bin/env bash
# One slice of a training on a GPU that is lent for minutes: unpack what came back, train, score, pack what goes home.
#
#   benchmarks/gpu_day.sh DATA.zip HOME OUT [SECONDS] [-- OPTIONS OF train.py]
#   benchmarks/gpu_day.sh --tiny DATA.zip HOME OUT       the same in a minute on a CPU
#
# HOME: folder of the files that the slice before has left, or an empty one. OUT: where this slice leaves its own. The same
# command with the former OUT as HOME carries on. The files are pieces of at most 15 MiB, at most 64 of them, with a checksum.
# Two network files at most travel, and the newest state.
set -euo pipefail
tiny=0
if [ "${1:-}" = --tiny ]; then tiny=1; shift; fi
[ $# -ge 3 ] || { echo "usage: $0 [--tiny] DATA.zip HOME OUT [SECONDS] [-- OPTIONS]" >&2; exit 2; }
data=$1 home=$2 out=$3
shift 3
seconds=480   # saving, scoring and packing need the rest of ten minutes
if [ $# -gt 0 ] && [ "$1" != -- ]; then seconds=$1; shift; fi
if [ "${1:-}" = -- ]; then shift; fi

python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/runs"
if compgen -G "$home/run.tar.*" > /dev/null; then
    (cd "$home" && sha256sum --quiet -c run.sha256)
    cat "$home"/run.tar.* | tar -x -C "$work/runs"
fi

options=(--cfg=ssn-plus --cuda-graphs=1 --batch=32 --channels=32 --channels-max=256 --distortion-interval=2 --kimg=20000)
metrics=kid_lite2k,rfid5k_full,ssn_distortion1k
if [ $tiny = 1 ]; then
    seconds=5 metrics=ssn_distortion16
    options=(--cfg=ssn-plus --gpus=0 --cuda-graphs=1 --batch=4 --channels=4 --channels-max=8 --block-dim=4 --workers=1 --tick=0.1)
fi
"$python" train.py --outdir="$work/runs" --data="$data" --metrics=none --keep=2 --for="${seconds}s" --snap-every=1h \
    "${options[@]}" "$@" --resume=latest

run=$(ls -td "$work"/runs/*/ | head -1)
network=$(ls -t "$run"network-snapshot-*.pkl | head -1)
"$python" calc_metrics.py --network="$network" --data="$data" --metrics="$metrics" $([ $tiny = 0 ] || echo --gpus=0) ||
    echo "Scoring failed; the training goes home without." >&2

(cd "$run" && ls -t training-state-*.pt | tail -n +2 | xargs -r rm --)   # the newest is enough
tar -c -C "$work/runs" . | split -b 15M -d -a 3 - "$out/run.tar."
(cd "$out" && sha256sum run.tar.* > run.sha256)
count=$(ls "$out" | wc -l)
[ "$count" -le 64 ] || { echo "$count files, more than 64, would have to go home: narrow the network" >&2; exit 1; }
echo "$count files in $out, $(du -sh "$out" | cut -f1)"
