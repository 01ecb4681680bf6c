#!/usr/bin/env bash
# Figures 2 and 3 of Gunel et al. (2021): t-SNE of SST-2 test features for CE and CE+SCL,
# at N = 20, N = 100 and on the full training set, with silhouette scores. Each panel shows
# one model: that of the first sample (or seed) at its best validation accuracy.
#
# Usage:  ENCODER=roberta.large scripts/figure2.sh [OPTION...]
#         options are passed to each `fairseq-scl run`
# Writes: outputs/figure2: records, checkpoints, figure2.png, figure2.pdf, figure2.json;
#         with --smoke outputs/figure2-smoke.
# Hardware and cost: one GPU with 16 GB; four few-shot runs and two on all of SST-2.
#
# Settings: ENCODER, GLUE, DATA_BIN, PREPARE: see table4.sh; PANELS (20 100 full);
#           POINT, one point of the grid (default: lambda=0.9,tau=0.3)
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
read -ra prepare <<<"${PREPARE:-}"
read -ra sizes <<<"${PANELS:-20 100 full}"
point=${POINT:-lambda=0.9,tau=0.3} to=outputs/figure2
[[ " $* " != *" --smoke "* ]] || to=$to-smoke

TASKS=SST-2 "$(dirname "$0")/prepare_glue.sh" \
  ${prepare[@]+"${prepare[@]}"}
models=()
for n in "${sizes[@]}"; do
  table=table4 && [[ $n == full ]] && table=table2
  results=$to/$n
  fairseq-scl run "$table" --data "$DATA_BIN" --model "$ENCODER" --keep-checkpoints \
    --results "$results" --only "task=SST-2,n=$n,$point,seed=0" "$@"
  for loss in CE CE+SCL; do
    model=$to/models/$n-$loss
    fairseq-scl export --results "$results" --only "loss=$loss,$point" --to "$model"
    models+=(--model "$n:$loss=$model")
  done
done
fairseq-scl figure --data "$DATA_BIN/SST-2/n20-sample0" "${models[@]}" \
  --to "$to/figure2.png"
