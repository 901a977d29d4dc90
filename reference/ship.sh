#!/usr/bin/env bash
# ship.sh CHECKPOINT [CURVE...]: makes models/unibiomed-nano from a checkpoint folder that reference.train exported, scores it, and writes its
# card, evaluation.json and the README's picture. Curves are curve.jsonl files or logs of training. A stopped run goes on where it was.
#
#   PYTHON       a Python with reference/requirements.txt, for the comparison with PyTorch; without it the comparison is left out
#   COMPARE      images of the test split to compare with PyTorch, evenly picked; 0: all. Default 60.
#   GROUNDING    type of grounding.gguf, default q8_0
#   UNIBIOMED_SHARED  the folder with data/train, ../shared by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkpoint=${1:?"which checkpoint folder?"}
shift
data=${UNIBIOMED_SHARED:-../shared}/data/train
model=models/unibiomed-nano
run=build/bin/unibiomed
unset UNIBIOMED_MODEL

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }

say "the model folder"
[ -x $run ] || ./build.sh build
mkdir -p build/ship
$run convert "$checkpoint" --out build/ship/model --type q8_0 --grounding "${GROUNDING:-q8_0}" --name unibiomed-nano --overwrite --quiet
cp build/ship/model/*.gguf build/ship/model/model.json $model/
./build.sh build # embeds it
$run verify --quiet

# Scores belong to these files.
scores=build/ship/$(sha256sum $model/model.json | cut -c 1-12)
score() { # FOLDER OPTIONS...
	local out=$scores/$1
	shift
	[ -f "$out/summary.json" ] && return
	local resume=()
	[ -f "$out/items.ndjson" ] && resume=(--resume)
	say "eval $*"
	$run eval "$data" --split test --commercial --out "$out" "${resume[@]}" "$@"
}
score segment --absent --baselines
score recognize --task recognize
score region --task region
score modality --task modality
score presence --task presence --absent

say "speed"
$run bench --image models/examples/xray.png --threads 2 --json --quiet >"$scores/bench.json"

python=${PYTHON:-python3}
if "$python" -c 'import torch, safetensors' 2>/dev/null; then
	say "comparison with PyTorch"
	limit=()
	[ "${COMPARE:-60}" = 0 ] || limit=(--limit "${COMPARE:-60}")
	[ -f "$scores/q8_0.json" ] ||
		"$python" -m reference.compare --checkpoint "$checkpoint" --data "$data" --items "$scores/segment/items.ndjson" --mean 0.01 "${limit[@]}" --out "$scores/q8_0.json" ||
		say "the command on q8_0 differs from the reference by more than it should"
	if [ ! -f "$scores/f32.json" ]; then
		$run convert "$checkpoint" --out build/ship/f32 --type f32 --overwrite --quiet
		UNIBIOMED_ACCEL=exact score f32 --model build/ship/f32
		"$python" -m reference.compare --checkpoint "$checkpoint" --data "$data" --items "$scores/f32/items.ndjson" --mean 0.005 --each 0.005 "${limit[@]}" --out "$scores/f32.json" ||
			say "the command in f32 differs from the reference by more than it should"
	fi
fi

say "card, evaluation.json, picture"
python3 -m reference.card --scores "$scores" --data "$data" --curve "$@"
$run segment models/examples/xray.png 'right lung in chest X-Ray' 'left lung in chest X-Ray' --out build/ship/picture --quiet
cp build/ship/picture/xray.overlay.png docs/chest.png
